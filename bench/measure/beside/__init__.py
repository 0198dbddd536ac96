"""Other programs doing the same job, each as its documentation says; they run in an environment of their own."""
