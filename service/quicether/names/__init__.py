"""Names of nodes: a zone made of the members that are known, and answers in it without a socket."""
