# SPDX-License-Identifier: Apache-2.0

"""anomalib's command line with the plugins loaded: `python -m anomalib_crad train --model Crad ...`.

It is `anomalib` with other words in front, for environments where PyTorch's autoloading is switched off. Importing this
package has registered the plugins, so nothing is left to do but to start.
"""

from __future__ import annotations

from anomalib.cli.cli import main

if __name__ == "__main__":
    main()
