BEGIN TRANSACTION;
CREATE TABLE assistants (
            endpoint TEXT NOT NULL,
            profile_hash TEXT NOT NULL,
            assistant_id TEXT NOT NULL,
            PRIMARY KEY (endpoint, profile_hash)
        );
INSERT INTO "assistants" VALUES('http://127.0.0.1:43945/v1','4d01e0d2e8291290d0e9f25a406cbbd9ccfaa2e6c104be9e7995da38d1257a7f','asst_N0CgwMH5pG9aFMsabIaLIEkC');
CREATE TABLE events (
            position INTEGER PRIMARY KEY AUTOINCREMENT,
            stream INTEGER NOT NULL REFERENCES streams (stream),
            version INTEGER NOT NULL,
            event_id TEXT NOT NULL UNIQUE,
            topic TEXT NOT NULL,
            schema INTEGER NOT NULL,
            at TEXT NOT NULL,
            state TEXT NOT NULL,
            leaf BLOB NOT NULL,
            UNIQUE (stream, version)
        );
INSERT INTO "events" VALUES(1,1,1,'01a20540-3824-7f51-9c9e-24b3b7d1ead7','ConversationStarted',1,'2026-11-22T21:53:44.484227Z','{"key":"customer-42"}',X'27B4DD51525B5BE12836F7458BF4275F8BAD89CD611D100C5A8A9BCD62BA8316');
INSERT INTO "events" VALUES(2,1,2,'01a20540-3824-759c-866e-0559a56fa95d','MessageJournaled',1,'2026-11-22T21:53:44.484227Z','{"message_id":"01a20540-3824-7118-8713-2ef074e62fae","role":"user","content":"Hello, is anybody there?","exchange_id":"01a20540-3824-7f1b-8ba3-ffe1f4e62121"}',X'BA28CE4C954F5DAA6A305ADB8403DBCBA599334E6370B60FAC2D7B17C628E02A');
INSERT INTO "events" VALUES(3,2,1,'01a20540-3825-7b54-aacb-94c23e4fa705','ProfileDefined',1,'2026-11-22T21:53:44.485522Z','{"profile_hash":"72b85c712c5c9bb5180352c9bf8220f10e5334a1a420d344ef8373e42b852672","name":"assistant","instructions":""}',X'CD79B7B018397CFD0F5222DE7651A4E05E3BA24D85D58005690D64E8ACEB560D');
INSERT INTO "events" VALUES(4,1,3,'01a20540-3826-7a01-9ede-8e7ac4a640de','RunStarted',1,'2026-11-22T21:53:44.486028Z','{"run_id":"01a20540-3826-780d-a197-cd82bce733c1","exchange_id":"01a20540-3824-7f1b-8ba3-ffe1f4e62121","attempt":1,"backend":"assistants","model":"gpt-5.5","profile_hash":"72b85c712c5c9bb5180352c9bf8220f10e5334a1a420d344ef8373e42b852672","memory_version":2,"memory_hash":"cd7186dc8d1abae7e05753102a0d7829642411f55c59cc92345c2016d36d9e92","deadline":"2026-11-22T21:55:14.486006Z"}',X'6BC452A988CC15C5DD1444DF7300D8007AF179986E6DB0266D3EC365735C974C');
INSERT INTO "events" VALUES(5,1,4,'01a20540-3ba4-763c-bf53-9084779b9aab','ThreadLinked',1,'2026-11-22T21:53:45.379999Z','{"backend":"assistants","thread_id":"thread_Q6j9iDSTGCH1M3FRj6cTNvnS","endpoint":"http://127.0.0.1:43945/v1"}',X'F264DDFE95C00BFB9EE3361E9028BE9A4B9737F558BDADF526B3914D74E21632');
INSERT INTO "events" VALUES(6,1,5,'01a20540-3bb9-7dc5-ba34-1c879d49cce0','RunCompleted',1,'2026-11-22T21:53:45.401535Z','{"run_id":"01a20540-3826-780d-a197-cd82bce733c1","remote_run_id":"run_OTaVwPpqBRtHKiUfwILrCsU6","thread_id":"thread_Q6j9iDSTGCH1M3FRj6cTNvnS","request_id":"req_4b847c112cde826adae03fe0f4f98397","model":"gpt-5.5","finish_reason":"completed","usage":{"input_tokens":4,"output_tokens":10,"total_tokens":14},"duration_seconds":0.915052}',X'96477FDFC486CB574719282BDC54968D4E4A3C2F435284E6BE977E9A1A500A6D');
INSERT INTO "events" VALUES(7,1,6,'01a20540-3bb9-7240-98cd-ea03bf98c790','MessageJournaled',1,'2026-11-22T21:53:45.401535Z','{"message_id":"01a20540-3bb9-7890-9339-fcf313bce90c","role":"assistant","content":"Hello, I am John. What can I do for you?","exchange_id":"01a20540-3824-7f1b-8ba3-ffe1f4e62121","run_id":"01a20540-3826-780d-a197-cd82bce733c1","source":"run"}',X'B44DEAD94DA845AA9077E8A8181DFC06F0D8DF08E025F419E693119222837453');
INSERT INTO "events" VALUES(8,1,7,'01a20540-3bc6-73a4-8457-00cb58e02ebd','ThreadLinked',1,'2026-11-22T21:53:45.414673Z','{"backend":"conversations","thread_id":"conv_f6074f557a7d8ea1177ca2c58205795f6e4b83c3d5d3fd8f","endpoint":"http://127.0.0.1:43945/v1"}',X'F74D1A2D9B6FC42AC63BF560CDC2F5AE37EC1EF05B72DDACCB5F7721E70AC5C2');
INSERT INTO "events" VALUES(9,1,8,'01a20540-3be9-7294-a85b-0a3111bc65ff','MessageJournaled',1,'2026-11-22T21:53:45.449511Z','{"message_id":"01a20540-3be9-7693-b83f-4b90d6816863","role":"user","content":"Where is my parcel?","exchange_id":"01a20540-3be9-7511-9c80-d73e1c9af41c"}',X'7C35550529F561E92CC3E4350743E265B66A75457DE5AD50A5F99EB9B7388BD3');
INSERT INTO "events" VALUES(10,1,9,'01a20540-3bea-7b40-a7ca-60364994b463','RunStarted',1,'2026-11-22T21:53:45.450272Z','{"run_id":"01a20540-3bea-794a-bea9-5fbf42facd6f","exchange_id":"01a20540-3be9-7511-9c80-d73e1c9af41c","attempt":1,"backend":"assistants","model":"gpt-5.5","profile_hash":"72b85c712c5c9bb5180352c9bf8220f10e5334a1a420d344ef8373e42b852672","memory_version":8,"memory_hash":"de49bae17e4bdd08758d0b2d892c0935672a2352477df7ec4e239514c6b21ee6","deadline":"2026-11-22T21:55:15.450252Z"}',X'BD9AFEB7ED874477E7BB0F5A453D187C0ACC5E2C5BC79D738F83127F29ED5C16');
INSERT INTO "events" VALUES(11,1,10,'01a20540-3bf1-7186-a415-eefaa7205038','RunFailed',1,'2026-11-22T21:53:45.457119Z','{"run_id":"01a20540-3bea-794a-bea9-5fbf42facd6f","status":"failed","code":"server_error","message":"Sorry, something went wrong.","request_id":"req_d6082468d0caaa9c480d7ae5a11ec0f2","duration_seconds":0.006385,"remote_run_id":"run_FJh7g81RfnQPPb8xk8vxk6jL","thread_id":"thread_Q6j9iDSTGCH1M3FRj6cTNvnS","details":{"endpoint":"GET /threads/{thread_id}/runs/{run_id}","incomplete_reason":null,"prompt_tokens":18}}',X'16372107913C8DB48312FC8647DD2B60B679A20376530A94F39756FCD9B473C9');
INSERT INTO "events" VALUES(12,1,11,'01a20540-3bf2-73d3-91d0-0e265585aea7','RunStarted',1,'2026-11-22T21:53:45.458546Z','{"run_id":"01a20540-3bf2-7cdc-afbd-b49e74ba7533","exchange_id":"01a20540-3be9-7511-9c80-d73e1c9af41c","attempt":2,"backend":"assistants","model":"gpt-5.5","profile_hash":"72b85c712c5c9bb5180352c9bf8220f10e5334a1a420d344ef8373e42b852672","memory_version":10,"memory_hash":"de49bae17e4bdd08758d0b2d892c0935672a2352477df7ec4e239514c6b21ee6","deadline":"2026-11-22T21:55:15.458528Z"}',X'18EACEC68D462669A9A13F5227D5A59382C3A2C8EA72932ADE6BEA18975CBE0A');
INSERT INTO "events" VALUES(13,1,12,'01a20540-3bf8-7ab6-885a-dd4a915842e5','RunFailed',1,'2026-11-22T21:53:45.464843Z','{"run_id":"01a20540-3bf2-7cdc-afbd-b49e74ba7533","status":"failed","code":"server_error","message":"Sorry, something went wrong.","request_id":"req_4ecc31ce3c9601d61977217bfea6c1c4","duration_seconds":0.005818,"remote_run_id":"run_X6L2gg6cmjY2Cn37fPRrHUul","thread_id":"thread_Q6j9iDSTGCH1M3FRj6cTNvnS","details":{"endpoint":"GET /threads/{thread_id}/runs/{run_id}","incomplete_reason":null,"prompt_tokens":18}}',X'7ABD254FCC3A610BF29EA9A4835DF59C06530405BC9D89CFED6FA714052C582F');
INSERT INTO "events" VALUES(14,1,13,'01a20540-3bf9-7820-a33c-332abab51e7a','FallbackUsed',1,'2026-11-22T21:53:45.465858Z','{"exchange_id":"01a20540-3be9-7511-9c80-d73e1c9af41c","failed_run_id":"01a20540-3bf2-7cdc-afbd-b49e74ba7533","from_backend":"assistants","to_backend":"chat","reason":"provider_error: server_error: Sorry, something went wrong."}',X'D273EE4F1C3583BB1A45BB0A6298E1F80CE6107DEA5A33EB3B488600AEEE795E');
INSERT INTO "events" VALUES(15,1,14,'01a20540-3bf9-73d8-832c-29b751fabc06','RunStarted',1,'2026-11-22T21:53:45.465858Z','{"run_id":"01a20540-3bf9-7ffb-a860-3411833e679f","exchange_id":"01a20540-3be9-7511-9c80-d73e1c9af41c","attempt":1,"backend":"chat","model":"gpt-5.5","profile_hash":"72b85c712c5c9bb5180352c9bf8220f10e5334a1a420d344ef8373e42b852672","memory_version":12,"memory_hash":"de49bae17e4bdd08758d0b2d892c0935672a2352477df7ec4e239514c6b21ee6","deadline":"2026-11-22T21:55:15.465890Z"}',X'B42071E9ADF63A1E48B28671EA44B3C342BE7DBCD475CE1B312FBC6596829AB4');
INSERT INTO "events" VALUES(16,1,15,'01a20540-3bff-7e26-856f-05bda950a0b8','RunCompleted',1,'2026-11-22T21:53:45.471819Z','{"run_id":"01a20540-3bf9-7ffb-a860-3411833e679f","remote_run_id":"chatcmpl-HvywvC4ppQ89kmtfWmNT14YW","request_id":"req_fe05f489611750c8f3bffe2fc82ef9ef","model":"gpt-5.5","finish_reason":"stop","usage":{"input_tokens":18,"output_tokens":10,"total_tokens":28},"duration_seconds":0.00552}',X'8E13C26749C15AA6165582E9196B2DD5C2AB04565B9D5C81463571308A1E064A');
INSERT INTO "events" VALUES(17,1,16,'01a20540-3bff-7ef2-b098-c2f4d9a04150','MessageJournaled',1,'2026-11-22T21:53:45.471819Z','{"message_id":"01a20540-3bff-797a-ad23-f73815b3415f","role":"assistant","content":"Your parcel 00340434 is on its way; it arrives tomorrow.","exchange_id":"01a20540-3be9-7511-9c80-d73e1c9af41c","run_id":"01a20540-3bf9-7ffb-a860-3411833e679f","source":"fallback"}',X'AE88D2B93FBDAA942E5FE13A330E43B8618DE5DB52EE2CAAC285F3C7C2374B4D');
INSERT INTO "events" VALUES(18,1,17,'01a20540-3c08-72e6-9dee-487a2c2f9758','MessageJournaled',1,'2026-11-22T21:53:45.480114Z','{"message_id":"01a20540-3c08-7b1d-b1a9-7729c58aa603","role":"user","content":"Can I still change the address?","exchange_id":"01a20540-3c08-74ff-a365-f78798fd689d"}',X'95AC764337D1BA8AC1F5707B2BADA85A32E52BE56C83530501FB7DA2877805C7');
INSERT INTO "events" VALUES(19,1,18,'01a20540-3c08-72a4-b424-747cd678207d','RunStarted',1,'2026-11-22T21:53:45.480725Z','{"run_id":"01a20540-3c08-7a35-bc16-fe0e9e567d98","exchange_id":"01a20540-3c08-74ff-a365-f78798fd689d","attempt":1,"backend":"assistants","model":"gpt-5.5","profile_hash":"72b85c712c5c9bb5180352c9bf8220f10e5334a1a420d344ef8373e42b852672","memory_version":17,"memory_hash":"d4efe3d3e07e918ef66b2db18aaaff95dd2967d487b8ff996296e28f53359415","deadline":"2026-11-22T21:55:15.480709Z"}',X'A3930E696C47F6A5063C44513B14EB82CD500FDC765BC276F30935F5386D5EA3');
INSERT INTO "events" VALUES(20,1,19,'01a20540-3c0d-7e14-ba71-072eb04425b1','RunFailed',1,'2026-11-22T21:53:45.485830Z','{"run_id":"01a20540-3c08-7a35-bc16-fe0e9e567d98","status":"failed","code":"server_error","message":"Sorry, something went wrong.","request_id":"req_fc600bb5264937a4261c9cb40c4ce9e9","duration_seconds":0.004677,"remote_run_id":"run_4enQN6YnvllNXEimfTMOyMhv","thread_id":"thread_Q6j9iDSTGCH1M3FRj6cTNvnS","details":{"endpoint":"GET /threads/{thread_id}/runs/{run_id}","incomplete_reason":null,"prompt_tokens":34}}',X'E9A35B55C644D809837512A93D603BC8E6BC52554AAA99D9DC14249FA8985977');
INSERT INTO "events" VALUES(21,1,20,'01a20540-3c0e-7494-825b-379ea491a8ca','RunStarted',1,'2026-11-22T21:53:45.486897Z','{"run_id":"01a20540-3c0e-7981-a943-2d80fd24f85d","exchange_id":"01a20540-3c08-74ff-a365-f78798fd689d","attempt":2,"backend":"assistants","model":"gpt-5.5","profile_hash":"72b85c712c5c9bb5180352c9bf8220f10e5334a1a420d344ef8373e42b852672","memory_version":19,"memory_hash":"d4efe3d3e07e918ef66b2db18aaaff95dd2967d487b8ff996296e28f53359415","deadline":"2026-11-22T21:55:15.486881Z"}',X'CD130824D34923E74DE721ADC95CD2F3E8B62C1CB6F784856108B6E5D863D19F');
INSERT INTO "events" VALUES(22,1,21,'01a20540-3c14-7d25-9543-bd7e4e3bef57','RunFailed',1,'2026-11-22T21:53:45.492773Z','{"run_id":"01a20540-3c0e-7981-a943-2d80fd24f85d","status":"failed","code":"server_error","message":"Sorry, something went wrong.","request_id":"req_2be3ad9ac7298692cd1dfb587d62fb66","duration_seconds":0.005414,"remote_run_id":"run_VKzlG5fhUNEg456WhTw2uv50","thread_id":"thread_Q6j9iDSTGCH1M3FRj6cTNvnS","details":{"endpoint":"GET /threads/{thread_id}/runs/{run_id}","incomplete_reason":null,"prompt_tokens":34}}',X'A46C63EAA3D2EEBA4417AFCCFDC4F195A87D9F62893B0EDA8547714912744F1D');
INSERT INTO "events" VALUES(23,1,22,'01a20540-3c16-7b4e-b177-d3932c8c9be7','FallbackUsed',1,'2026-11-22T21:53:45.494188Z','{"exchange_id":"01a20540-3c08-74ff-a365-f78798fd689d","failed_run_id":"01a20540-3c0e-7981-a943-2d80fd24f85d","from_backend":"assistants","to_backend":"chat","reason":"provider_error: server_error: Sorry, something went wrong."}',X'8CAD34B69B31B3391928B079A110DF2788388627D792BCA8586A64AC25182948');
INSERT INTO "events" VALUES(24,1,23,'01a20540-3c16-7e6e-bcc5-74cb73e95121','RunStarted',1,'2026-11-22T21:53:45.494188Z','{"run_id":"01a20540-3c16-7e9b-b803-bf9e17aace06","exchange_id":"01a20540-3c08-74ff-a365-f78798fd689d","attempt":1,"backend":"chat","model":"gpt-5.5","profile_hash":"72b85c712c5c9bb5180352c9bf8220f10e5334a1a420d344ef8373e42b852672","memory_version":21,"memory_hash":"d4efe3d3e07e918ef66b2db18aaaff95dd2967d487b8ff996296e28f53359415","deadline":"2026-11-22T21:55:15.494209Z"}',X'106A9048D22E1117B1917BD864A00A27EA6F062B6B231CDF8CF84528273B4F63');
INSERT INTO "events" VALUES(25,1,24,'01a20540-3c18-7695-812a-15e8b17d8a8b','RunFailed',1,'2026-11-22T21:53:45.496975Z','{"run_id":"01a20540-3c16-7e9b-b803-bf9e17aace06","status":"error","code":"rate_limit_exceeded","type":"requests","message":"The simulator was told to refuse this.","http_status":429,"request_id":"req_6a0453c7201eb6306ac70e76e128fb6a","duration_seconds":0.002168,"details":{"endpoint":"POST /chat/completions","exception":"RateLimitError"}}',X'2E1D1B81F8938205BE92528008628D091CE9D41E4A12BEF18FEB49D34FECB6ED');
INSERT INTO "events" VALUES(26,1,25,'01a20540-3c19-70a0-8f1b-eea0481be6e6','RunStarted',1,'2026-11-22T21:53:45.497809Z','{"run_id":"01a20540-3c19-755a-ac5b-0d53c9a90f84","exchange_id":"01a20540-3c08-74ff-a365-f78798fd689d","attempt":2,"backend":"chat","model":"gpt-5.5","profile_hash":"72b85c712c5c9bb5180352c9bf8220f10e5334a1a420d344ef8373e42b852672","memory_version":24,"memory_hash":"d4efe3d3e07e918ef66b2db18aaaff95dd2967d487b8ff996296e28f53359415","deadline":"2026-11-22T21:55:15.497792Z"}',X'728FEBCEF95E6385D3362A479BB6FE17D6F08B3A58EA76ED0C5C5B2A0651D9D0');
INSERT INTO "events" VALUES(27,1,26,'01a20540-3c1c-783b-959a-3ed876682d9b','RunFailed',1,'2026-11-22T21:53:45.500486Z','{"run_id":"01a20540-3c19-755a-ac5b-0d53c9a90f84","status":"error","code":"rate_limit_exceeded","type":"requests","message":"The simulator was told to refuse this.","http_status":429,"request_id":"req_3fd49cbb3cc6bef090afc694434e1ac8","duration_seconds":0.00214,"details":{"endpoint":"POST /chat/completions","exception":"RateLimitError"}}',X'9C2D26AB9187A2E7DC23F9F218AC4AB5CB1B7EB0F6B75493517D2B46E1595A27');
INSERT INTO "events" VALUES(28,1,27,'01a20540-3c1d-7646-ad72-d505f744455b','ExchangeAbandoned',1,'2026-11-22T21:53:45.501089Z','{"exchange_id":"01a20540-3c08-74ff-a365-f78798fd689d","run_ids":["01a20540-3c08-7a35-bc16-fe0e9e567d98","01a20540-3c0e-7981-a943-2d80fd24f85d","01a20540-3c16-7e9b-b803-bf9e17aace06","01a20540-3c19-755a-ac5b-0d53c9a90f84"],"reason":"rate_limited: HTTP 429: rate_limit_exceeded: The simulator was told to refuse this."}',X'48BB35F9323B416C57FECC720EB1C99E05DE75DF4FD0A6CBA5E3854D722FB314');
INSERT INTO "events" VALUES(29,1,28,'01a20540-3cd4-735a-9788-693cf92f355b','RunStarted',1,'2026-11-22T21:53:45.684424Z','{"run_id":"01a20540-3cd4-7234-85c7-628ed68e5804","exchange_id":"01a20540-3c08-74ff-a365-f78798fd689d","attempt":1,"backend":"assistants","model":"gpt-5.5","profile_hash":"72b85c712c5c9bb5180352c9bf8220f10e5334a1a420d344ef8373e42b852672","memory_version":27,"memory_hash":"d4efe3d3e07e918ef66b2db18aaaff95dd2967d487b8ff996296e28f53359415","deadline":"2026-11-22T21:55:15.684390Z","rerun_of":"01a20540-3c19-755a-ac5b-0d53c9a90f84"}',X'B66D171F8E8676BD79C6DA2DEED227FFB69EA30430B7AD417873BA5510DD8436');
INSERT INTO "events" VALUES(30,1,29,'01a20540-3cdc-7a24-bcbd-63f2976be35f','RunCompleted',1,'2026-11-22T21:53:45.692560Z','{"run_id":"01a20540-3cd4-7234-85c7-628ed68e5804","remote_run_id":"run_TyLXyrNVwCLJzHc4XSEKU7I4","thread_id":"thread_Q6j9iDSTGCH1M3FRj6cTNvnS","request_id":"req_f8dcfc3a079c8c1855395ad4b2ae943b","model":"gpt-5.5","finish_reason":"completed","usage":{"input_tokens":34,"output_tokens":7,"total_tokens":41},"duration_seconds":0.007407}',X'7548A0BFDF37EF8E52CA14777763C59AE59D851D9E5FD2B62C1A9A7C9AD71FCC');
INSERT INTO "events" VALUES(31,1,30,'01a20540-3cdc-790f-b068-bcc342feed46','MessageJournaled',1,'2026-11-22T21:53:45.692560Z','{"message_id":"01a20540-3cdc-738d-a60e-e5c749a81950","role":"assistant","content":"Yes, until it is out for delivery.","exchange_id":"01a20540-3c08-74ff-a365-f78798fd689d","run_id":"01a20540-3cd4-7234-85c7-628ed68e5804","source":"rerun"}',X'8AC296673EA3E64AC3782CA7CC48D4DD32706F35E2A41DD41CE64199F75F03DA');
INSERT INTO "events" VALUES(32,1,31,'01a20540-3cdc-71f1-a045-1d9b65dd2e6c','RerunAccepted',1,'2026-11-22T21:53:45.692560Z','{"exchange_id":"01a20540-3c08-74ff-a365-f78798fd689d","run_id":"01a20540-3cd4-7234-85c7-628ed68e5804","message_id":"01a20540-3cdc-738d-a60e-e5c749a81950","superseded_run_id":"01a20540-3c19-755a-ac5b-0d53c9a90f84"}',X'E28C801FFD32E7B24143547D6EE4F82304AC41BE04A47D6FBB5D6B44606861C4');
INSERT INTO "events" VALUES(33,1,32,'01a20540-3cf8-7e08-bd88-e367a21fbb3f','ThreadRebuilt',1,'2026-11-22T21:53:45.720644Z','{"backend":"conversations","thread_id":"conv_f834450dacb6a2be089b749b54685e0169122ae76c5f2e89","old_thread_id":"conv_f6074f557a7d8ea1177ca2c58205795f6e4b83c3d5d3fd8f","endpoint":"http://127.0.0.1:43945/v1","memory_version":31,"message_count":6,"digest":"94296e68db0c1fdc9a47b67a21f60739ff05677092156918dbb0641fcd9ae3ef"}',X'49ED74BC3EA7FC3986ECFDEEFC82CBF07B181D4B04887CF34D36D67279454B03');
INSERT INTO "events" VALUES(34,1,33,'01a20540-3cfa-7215-91f2-519785a046d7','MessageJournaled',1,'2026-11-22T21:53:45.722108Z','{"message_id":"01a20540-3cfa-7e55-939e-cde5f240a350","role":"user","content":"Thank you"}',X'1ECA8F649FE056AD9D23BE9034A59C7F66A10F4D7B47EB88B03A4297FF45A73C');
INSERT INTO "events" VALUES(35,1,34,'01a21a29-fedb-742b-a1f4-c9b0e4afa910','MessageJournaled',1,'2026-11-26T23:21:29.563905Z','{"message_id":"01a21a29-fedb-7614-ad01-ffe613e300f2","role":"user","content":"And the one after that?"}',X'5D7D800E99EB7A16406EC780DC831608435E7E96B8C7B3023C2C4E572B35C636');
CREATE TABLE mirror_heads (
            stream TEXT NOT NULL,
            mirror TEXT NOT NULL,
            thread_id TEXT NOT NULL,
            version INTEGER NOT NULL,
            settled INTEGER NOT NULL,
            holder TEXT,
            held_until TEXT, doubts TEXT NOT NULL DEFAULT '[]',
            PRIMARY KEY (stream, mirror)
        );
INSERT INTO "mirror_heads" VALUES('conversation:customer-42','assistants','thread_Q6j9iDSTGCH1M3FRj6cTNvnS',33,0,'a run that was killed','2026-11-22T21:53:45.728621Z','[]');
INSERT INTO "mirror_heads" VALUES('conversation:customer-42','conversations','conv_f834450dacb6a2be089b749b54685e0169122ae76c5f2e89',33,1,NULL,NULL,'[]');
CREATE TABLE parked (
            view TEXT NOT NULL,
            version INTEGER NOT NULL,
            generation INTEGER NOT NULL,
            position INTEGER NOT NULL,
            reason TEXT NOT NULL,
            PRIMARY KEY (view, version, generation, position)
        );
CREATE TABLE streams (
            stream INTEGER PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            version INTEGER NOT NULL,
            state_schema INTEGER NOT NULL,
            state TEXT NOT NULL,
            due_at TEXT);
INSERT INTO "streams" VALUES(1,'conversation:customer-42',34,1,'{"key":"customer-42","version":34,"started_at":"2026-11-22T21:53:44.484227Z","last_at":"2026-11-26T23:21:29.563905Z","messages":8,"exchanges":3,"failed_runs":6,"last_exchange_id":"01a20540-3c08-74ff-a365-f78798fd689d","open_runs":{},"open_exchanges":{},"abandoned":{},"unanswered":0,"cut_version":0,"answered":["01a20540-3824-7f1b-8ba3-ffe1f4e62121","01a20540-3be9-7511-9c80-d73e1c9af41c","01a20540-3c08-74ff-a365-f78798fd689d"],"links":{"assistants":{"thread_id":"thread_Q6j9iDSTGCH1M3FRj6cTNvnS","endpoint":"http://127.0.0.1:43945/v1","version":4,"lost":null},"conversations":{"thread_id":"conv_f834450dacb6a2be089b749b54685e0169122ae76c5f2e89","endpoint":"http://127.0.0.1:43945/v1","version":32,"lost":null}}}',NULL);
INSERT INTO "streams" VALUES(2,'profile:72b85c712c5c9bb5180352c9bf8220f10e5334a1a420d344ef8373e42b852672',1,1,'{}',NULL);
CREATE TABLE threadledger (schema_version INTEGER NOT NULL, created_at TEXT NOT NULL);
INSERT INTO "threadledger" VALUES(3,'2026-11-22T21:53:44.481872Z');
CREATE TABLE tracking (
            view TEXT NOT NULL,
            version INTEGER NOT NULL,
            generation INTEGER NOT NULL,
            position INTEGER NOT NULL,
            live INTEGER NOT NULL,
            PRIMARY KEY (view, version, generation)
        );
INSERT INTO "tracking" VALUES('conversations',101,1,35,1);
INSERT INTO "tracking" VALUES('audit',2,1,35,1);
CREATE TABLE view_audit_2_1_runs (
	started INTEGER NOT NULL, 
	completed INTEGER, 
	failed INTEGER, 
	id_reversed TEXT NOT NULL, 
	exchange_id TEXT NOT NULL, 
	state TEXT NOT NULL, 
	ended_at TEXT, 
	backend TEXT, 
	code TEXT, 
	next TEXT NOT NULL, 
	tells SMALLINT NOT NULL, 
	abandoned SMALLINT NOT NULL, 
	answered_by TEXT, 
	PRIMARY KEY (started)
);
INSERT INTO "view_audit_2_1_runs" VALUES(4,6,NULL,'1c337ecb28dc-791a-d087-6283-04502a10','01a20540-3824-7f1b-8ba3-ffe1f4e62121','completed','2026-11-22T21:53:45.401535Z','assistants',NULL,'open',1,0,'01a20540-3826-780d-a197-cd82bce733c1');
INSERT INTO "view_audit_2_1_runs" VALUES(10,NULL,11,'f6dcaf24fbf5-9aeb-a497-aeb3-04502a10','01a20540-3be9-7511-9c80-d73e1c9af41c','failed','2026-11-22T21:53:45.457119Z','assistants','server_error','retried',1,0,'01a20540-3bf9-7ffb-a860-3411833e679f');
INSERT INTO "view_audit_2_1_runs" VALUES(12,NULL,13,'3357ab47e94b-dbfa-cdc7-2fb3-04502a10','01a20540-3be9-7511-9c80-d73e1c9af41c','failed','2026-11-22T21:53:45.464843Z','assistants','server_error','fallback',1,0,'01a20540-3bf9-7ffb-a860-3411833e679f');
INSERT INTO "view_audit_2_1_runs" VALUES(15,16,NULL,'f976e3381143-068a-bff7-9fb3-04502a10','01a20540-3be9-7511-9c80-d73e1c9af41c','completed','2026-11-22T21:53:45.471819Z','chat',NULL,'open',1,0,'01a20540-3bf9-7ffb-a860-3411833e679f');
INSERT INTO "view_audit_2_1_runs" VALUES(19,NULL,20,'89d765e9e0ef-61cb-53a7-80c3-04502a10','01a20540-3c08-74ff-a365-f78798fd689d','failed','2026-11-22T21:53:45.485830Z','assistants','server_error','retried',1,0,'01a20540-3cd4-7234-85c7-628ed68e5804');
INSERT INTO "view_audit_2_1_runs" VALUES(21,NULL,22,'d58f42df08d2-349a-1897-e0c3-04502a10','01a20540-3c08-74ff-a365-f78798fd689d','failed','2026-11-22T21:53:45.492773Z','assistants','server_error','fallback',1,0,'01a20540-3cd4-7234-85c7-628ed68e5804');
INSERT INTO "view_audit_2_1_runs" VALUES(24,NULL,25,'60ecaa71e9fb-308b-b9e7-61c3-04502a10','01a20540-3c08-74ff-a365-f78798fd689d','failed','2026-11-22T21:53:45.496975Z','chat','rate_limit_exceeded','retried',1,0,'01a20540-3cd4-7234-85c7-628ed68e5804');
INSERT INTO "view_audit_2_1_runs" VALUES(26,NULL,27,'48f09a9c35d0-b5ca-a557-91c3-04502a10','01a20540-3c08-74ff-a365-f78798fd689d','failed','2026-11-22T21:53:45.500486Z','chat','rate_limit_exceeded','abandoned',1,0,'01a20540-3cd4-7234-85c7-628ed68e5804');
INSERT INTO "view_audit_2_1_runs" VALUES(29,30,NULL,'4085e86de826-7c58-4327-4dc3-04502a10','01a20540-3c08-74ff-a365-f78798fd689d','completed','2026-11-22T21:53:45.692560Z','assistants',NULL,'open',1,0,'01a20540-3cd4-7234-85c7-628ed68e5804');
CREATE TABLE view_conversations_101_1_states (
	stream TEXT NOT NULL, 
	position INTEGER NOT NULL, 
	state TEXT NOT NULL, 
	PRIMARY KEY (stream)
);
INSERT INTO "view_conversations_101_1_states" VALUES('conversation:customer-42',35,'{"key":"customer-42","version":34,"started_at":"2026-11-22T21:53:44.484227Z","last_at":"2026-11-26T23:21:29.563905Z","messages":8,"exchanges":3,"failed_runs":6,"last_exchange_id":"01a20540-3c08-74ff-a365-f78798fd689d","open_runs":{},"open_exchanges":{},"abandoned":{},"unanswered":0,"cut_version":0,"answered":["01a20540-3824-7f1b-8ba3-ffe1f4e62121","01a20540-3be9-7511-9c80-d73e1c9af41c","01a20540-3c08-74ff-a365-f78798fd689d"],"links":{"assistants":{"thread_id":"thread_Q6j9iDSTGCH1M3FRj6cTNvnS","endpoint":"http://127.0.0.1:43945/v1","version":4,"lost":null},"conversations":{"thread_id":"conv_f834450dacb6a2be089b749b54685e0169122ae76c5f2e89","endpoint":"http://127.0.0.1:43945/v1","version":32,"lost":null}}}');
CREATE INDEX streams_by_due_at ON streams (due_at) WHERE due_at IS NOT NULL;
CREATE TRIGGER events_are_not_changed BEFORE UPDATE ON events
            BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
CREATE TRIGGER events_are_not_deleted BEFORE DELETE ON events
            BEGIN SELECT RAISE(ABORT, 'events are never deleted'); END;
CREATE INDEX view_conversations_101_1_by_position ON view_conversations_101_1_states (position);
CREATE INDEX view_audit_2_1_by_exchange ON view_audit_2_1_runs (exchange_id);
CREATE INDEX view_audit_2_1_by_id ON view_audit_2_1_runs (id_reversed);
CREATE INDEX view_audit_2_1_by_backend ON view_audit_2_1_runs (backend, tells, ended_at, started);
CREATE INDEX view_audit_2_1_by_end ON view_audit_2_1_runs (ended_at, started) WHERE failed IS NOT NULL;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('events',35);
COMMIT;
