"""The commands' output and refusals, for any caller: status, figures, errors, words."""
