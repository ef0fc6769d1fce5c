"""Every check that a kernel of any operator must pass: name -> function(lab, subject, share)."""

import checks
import hidden
import splits

GROUPS = {check.__name__: check for check in (*checks.CHECKS, *hidden.CHECKS, *splits.CHECKS)}
