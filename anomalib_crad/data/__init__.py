# SPDX-License-Identifier: Apache-2.0

"""The datamodules. None of them imports from `anomalib.models`, which itself imports `anomalib.data`.

`anomalib.data` comes first, whichever datamodule is imported: the plugin publishes ours as soon as it is complete, and
a datamodule whose own import triggered that would still be half defined.
"""

import anomalib.data  # noqa: F401
