"""Object stores: their URLs, the few acts on them, how long they are waited for, objects read by ranges."""
