"""Others doing the same job, each as people write it; programs run in an environment of their own."""
