# SPDX-License-Identifier: Apache-2.0

"""The models: one folder each, and the components that they share.

`anomalib.models` comes first, whichever model is imported: the plugin publishes our models as soon as it is complete,
and a model whose own import triggered that would still be half defined.
"""

import anomalib.models  # noqa: F401
