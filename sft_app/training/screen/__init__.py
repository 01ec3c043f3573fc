"""What a run says while it trains, on the screen and in train.log."""
