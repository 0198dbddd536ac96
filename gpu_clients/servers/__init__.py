"""What a server is and speaks: routes, examination, canary, tokenizer, and what is asked of it."""
