"""What commands say and refuse, whoever calls them: status, figures, refusals, words."""
