"""From a budget to a schedule: what steps cost here, what they damage, and which to take."""
