from domain.conversation.tool_secrets import *
