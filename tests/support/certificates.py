"""Two self-signed certificates for 127.0.0.1, valid for a hundred years, and their keys: for tests and nothing else."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NamedTuple


class Certificate(NamedTuple):
    cert: str
    key: str

    def write(self, directory: Path) -> dict[str, str]:
        """Write the files server.crt and server.key, and return the setting ``server.tls`` for them."""
        (directory / "server.crt").write_text(self.cert)
        (directory / "server.key").write_text(self.key)
        return {"cert": str(directory / "server.crt"), "key": str(directory / "server.key")}


def trust(certificate: Certificate) -> ssl.SSLContext:
    """Return a client's context that accepts this certificate and no other."""
    return ssl.create_default_context(cadata=certificate.cert)


ONE = Certificate(
    """\
-----BEGIN CERTIFICATE-----
MIIBbzCCARWgAwIBAgIBATAKBggqhkjOPQQDAjAYMRYwFAYDVQQDDA16bXNkIHRl
c3Qgb25lMCAXDTIwMDEwMTAwMDAwMFoYDzIxMjAwMTAxMDAwMDAwWjAYMRYwFAYD
VQQDDA16bXNkIHRlc3Qgb25lMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEKaHp
r3scI3aSh+06D0vUWHYDBbh1IiZf/y1csHiuglEm7wotOETwjw1k52rmWxzp+nRD
DDI6RfS+ZKBh7C4lCqNOMEwwDwYDVR0TAQH/BAUwAwEB/zAaBgNVHREEEzARhwR/
AAABgglsb2NhbGhvc3QwHQYDVR0OBBYEFO8rZgf7STRGDdS/7JCBUXd7JTsWMAoG
CCqGSM49BAMCA0gAMEUCIQCivtNlFJWeTHnzEahhdLOBu2pVZck5O9Y/jxtVqoVo
vAIgcdG7nrjWScxLlFr5O3YHqHtbveu+1O1kDv/DfgfE6D8=
-----END CERTIFICATE-----
""",
    """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQguHTz2UdiAbJKbBhO
B2PFFcdpjvps7C8m6u9170VRlXuhRANCAAQpoemvexwjdpKH7ToPS9RYdgMFuHUi
Jl//LVyweK6CUSbvCi04RPCPDWTnauZbHOn6dEMMMjpF9L5koGHsLiUK
-----END PRIVATE KEY-----
""",
)
TWO = Certificate(
    """\
-----BEGIN CERTIFICATE-----
MIIBbjCCARWgAwIBAgIBAjAKBggqhkjOPQQDAjAYMRYwFAYDVQQDDA16bXNkIHRl
c3QgdHdvMCAXDTIwMDEwMTAwMDAwMFoYDzIxMjAwMTAxMDAwMDAwWjAYMRYwFAYD
VQQDDA16bXNkIHRlc3QgdHdvMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAETbJY
nBl6WWByry49VLQZR88KSTnSh5K5aMGw+8CeLWfwUY2zkz3V4BKqXglxQeFpazB+
40yIs3qWpPWaQBMOjKNOMEwwDwYDVR0TAQH/BAUwAwEB/zAaBgNVHREEEzARhwR/
AAABgglsb2NhbGhvc3QwHQYDVR0OBBYEFAPKTnYqXZWHSMmIlqUmQQAARLPPMAoG
CCqGSM49BAMCA0cAMEQCICK+pM+edyXlcZJX50cQDjIy7y+OD0zPXc3pcbWCJPLm
AiBzcxbxBoyOWD1ggcFV5pTc3OgacpgPtp6dseeyuFNjTw==
-----END CERTIFICATE-----
""",
    """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgzkOzqSDItqLs9ki4
+9J5CQUodL7togip8HO6/wZKTnmhRANCAARNslicGXpZYHKvLj1UtBlHzwpJOdKH
krlowbD7wJ4tZ/BRjbOTPdXgEqpeCXFB4WlrMH7jTIizepak9ZpAEw6M
-----END PRIVATE KEY-----
""",
)
LOCKED_KEY = """\
-----BEGIN EC PRIVATE KEY-----
Proc-Type: 4,ENCRYPTED
DEK-Info: AES-128-CBC,AB52F4A247818477872829FFEB984349

6n2IvYh0RcTEYrpxOcUJPgbsnQql8RDW5GcAofOC6tFrWzCjbmEpk6t9JNda3qn/
ZPZ47Qo9C7VYTTRow0Ow4lMhsFvC5o45qAqbtHFVLCX0uibi93qZzsoscvDKpAR4
htkiQLYJdNuzylme0oIga31/RMg+95CZBcPcHOQflB8=
-----END EC PRIVATE KEY-----
"""
"""Of ONE, with a password."""
