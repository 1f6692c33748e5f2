CREATE TABLE agent_sessions ( session_id TEXT PRIMARY KEY, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP );
CREATE TABLE agent_messages ( id INTEGER PRIMARY KEY AUTOINCREMENT, session_id TEXT NOT NULL, message_data TEXT NOT NULL, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, FOREIGN KEY (session_id) REFERENCES agent_sessions (session_id) ON DELETE CASCADE );
INSERT INTO agent_sessions VALUES ('e1', '2026-11-28 20:53:39', '2026-11-28 20:53:39');
INSERT INTO agent_messages VALUES (1, 'e1', '{"__enc__": 1, "v": 1, "kid": "hkdf-v1", "payload": "gAAAAABsealed"}', '2026-11-28 20:53:39');
INSERT INTO agent_messages VALUES (2, 'e1', '{"__enc__": 1, "v": 1, "kid": "hkdf-v1", "payload": "gAAAAABsealed"}', '2026-11-28 20:53:39');
