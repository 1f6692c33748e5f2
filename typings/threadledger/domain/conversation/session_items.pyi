from domain.conversation.session_items import *
