"""HTTP/1.1 over epoll: the event loop, listening ports, connections."""
