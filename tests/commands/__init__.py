"""What commands say and refuse, for any caller: status, figures, refusals, words."""
