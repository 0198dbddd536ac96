"""What is looked at before a run reads anything: is there a text, and if the queue is empty, why."""
