"""``dr-encoder compare``: strategies side by side at equal ε, in this process, with all private data on one machine.

Server and clients may not import one another, since a deployed server has no client code and a site no server code. A
simulation needs both, so it is a package above both (the import contract says so), as ``benchmarks`` is.
"""
