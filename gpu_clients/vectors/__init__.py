"""What an answer must be: decoded strictly, sound, and not of a text that was cut unnoticed."""
