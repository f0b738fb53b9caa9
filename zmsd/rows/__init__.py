"""Make rows of documents, and row changes of two versions of a document."""
