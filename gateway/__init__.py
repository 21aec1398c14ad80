"""Acts: sockets, backends, workers and the admin plane of the turnout inference gateway."""

__version__ = "0.1.0"
