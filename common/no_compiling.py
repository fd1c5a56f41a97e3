"""Nothing that a model brings is compiled: ``torch.compile`` does it anew for each length of a text, which time tells.

Acts by being imported, before torch's compiler is. BitNet's layers ask for it, and flex attention does.
"""

import os

os.environ["TORCHDYNAMO_DISABLE"] = "1"
