"""What `engine run` does with embedding servers: a client process each, from document ring to vector ring."""
