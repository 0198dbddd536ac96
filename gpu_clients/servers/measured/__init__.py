"""What a server does that it does not say, and that shows when it is asked: does it pad, do neighbours matter."""
