"use strict";
// A token in the address of this page is needed in those of the others, too.
for (const link of document.querySelectorAll("a")) link.search = location.search;
