"""What the command-line tools call: training, testing, converting, and the checks before them."""
