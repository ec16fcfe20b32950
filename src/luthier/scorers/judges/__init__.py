"""Language models that judge answers: by a rubric or by principles, alone or side by side; reward models that write."""
