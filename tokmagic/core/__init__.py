"""What every room speaks of: prompts, streams, money, budgets, records; settings. It knows no room."""
