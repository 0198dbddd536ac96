"""What is looked at before documents are read: is there a text, why is the queue empty, what is known already."""
