"""The names of OpenTelemetry's conventions for generative AI, and of our own attributes, in one place.

Source: github.com/open-telemetry/semantic-conventions-genai, docs/gen-ai/gen-ai-spans.md, gen-ai-agent-spans.md and
gen-ai-metrics.md, read in November 2026 (status: Development). Names that changed on the way there: `gen_ai.system` is
`gen_ai.provider.name` now. `error.type`, `server.address` and `server.port`: general conventions, stable.
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
"""The operation of a run: a model is asked."""
INVOKE_AGENT = "invoke_agent"
"""The operation of an exchange: all runs that tried to answer one question."""

OPENAI = "openai"
AZURE_OPENAI = "azure.ai.openai"
"""Providers. An app's own backend goes by its own name."""

OPERATION_DURATION = "gen_ai.client.operation.duration"
OPERATION_DURATION_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Seconds."""
TOKEN_USAGE = "gen_ai.client.token.usage"  # noqa: S105
TOKEN_USAGE_BUCKETS = tuple(4**power for power in range(14))
"""1 to 67,108,864 tokens."""

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
"""Why a span is linked to another one."""
FALLBACK = "fallback"
"""The linked run failed, and this one took its place on another backend."""
GIVEN_UP = "abandoned"
"""The `error.type` of an exchange that nobody answered."""
