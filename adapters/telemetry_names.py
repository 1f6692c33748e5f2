"""Define the attribute names of OpenTelemetry's conventions for generative AI, and our own attribute names.

Source: github.com/open-telemetry/semantic-conventions-genai, docs/gen-ai/gen-ai-spans.md, gen-ai-agent-spans.md and
gen-ai-metrics.md, read in November 2026 (status: Development). An earlier draft named `gen_ai.provider.name`
`gen_ai.system`. `error.type`, `server.address` and `server.port` belong to the general conventions, which are stable.
"""

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
CONVERSATION_ID = "gen_ai.conversation.id"
AGENT_NAME = "gen_ai.agent.name"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_ID = "gen_ai.response.id"
FINISH_REASONS = "gen_ai.response.finish_reasons"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
ERROR_TYPE = "error.type"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"

CHAT = "chat"
"""Operation of a run: one call of a model."""
INVOKE_AGENT = "invoke_agent"
"""Operation of an exchange: all runs that tried to answer one question."""

OPENAI = "openai"
AZURE_OPENAI = "azure.ai.openai"
"""Provider names. An app's own backend is reported under its own name."""

OPERATION_DURATION = "gen_ai.client.operation.duration"
OPERATION_DURATION_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Bucket boundaries, in seconds."""
TOKEN_USAGE = "gen_ai.client.token.usage"  # noqa: S105
TOKEN_USAGE_BUCKETS = tuple(4**power for power in range(14))
"""Bucket boundaries, from 1 to 67,108,864 tokens."""

RUN_ID = "threadledger.run.id"
EXCHANGE_ID = "threadledger.exchange.id"
BACKEND = "threadledger.backend"
ATTEMPT = "threadledger.attempt"
RERUN_OF = "threadledger.rerun_of"
SHADOW = "threadledger.shadow"
STATUS = "threadledger.status"
ERROR_CODE = "threadledger.error.code"
ERROR_KIND = "threadledger.error.type"
HTTP_STATUS = "threadledger.http_status"
REQUEST_ID = "threadledger.request_id"
LINK = "threadledger.link"
"""Reason why a span is linked to another one."""
FALLBACK = "fallback"
"""Link reason: the linked run failed, and this run replaced it on another backend."""
GIVEN_UP = "abandoned"
"""`error.type` of an exchange that no backend answered."""
