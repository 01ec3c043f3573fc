"""What watches over the steps: numbers, signals, ranks that hang."""
