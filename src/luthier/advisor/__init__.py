"""What a run will take, and what to run: memory and time before the first step, rules of thumb with their sources, and
plans made of both."""
