"""One file per kind of source; each turns what is on disk into a `Table`."""
