"""Files, pipes and compressed input to token ids, in memory that does not grow with the input."""

from sinkctl.text.position import TextPosition
from sinkctl.text.records import RecordDecoder
from sinkctl.text.source import Source, compression, fingerprint, holds_records, is_records
from sinkctl.text.special import SpecialTokens, check_ids
from sinkctl.text.tokens import TokenBlock, TokenStream

__all__ = [
    "RecordDecoder", "Source", "SpecialTokens", "TextPosition", "TokenBlock", "TokenStream", "check_ids", "compression",
    "fingerprint", "holds_records", "is_records",
]  # fmt: skip
