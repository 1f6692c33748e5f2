BEGIN TRANSACTION;
CREATE TABLE assistants (
            endpoint TEXT NOT NULL,
            profile_hash TEXT NOT NULL,
            assistant_id TEXT NOT NULL,
            PRIMARY KEY (endpoint, profile_hash)
        );
INSERT INTO "assistants" VALUES('http://127.0.0.1:40187/v1','4d01e0d2e8291290d0e9f25a406cbbd9ccfaa2e6c104be9e7995da38d1257a7f','asst_3xdGqmka56Vldu7jO3sknqd6');
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
INSERT INTO "events" VALUES(1,1,1,'01a22756-7dbf-757a-b51c-6c1d5248a808','ConversationStarted',1,'2026-11-29T12:45:09.439573Z','{"key":"customer-42"}',X'20E1BD38A8879302C1EDA623D7C1BC2A63E914D91140DF964BDCD6A1C8897E1D');
INSERT INTO "events" VALUES(2,1,2,'01a22756-7dbf-72ed-b7ae-1deaa08d0cd9','MessageJournaled',1,'2026-11-29T12:45:09.439573Z','{"message_id":"01a22756-7dbf-7fbb-9d38-5329fc674abd","role":"system","content":"Answer in one sentence."}',X'09CF132DF55E40E270E736FA835302729F11A4BE3AAFA85263A457CC9BDE9A9B');
INSERT INTO "events" VALUES(3,1,3,'01a22756-803c-7f76-a195-36f63cb9aaa1','ThreadLinked',1,'2026-11-29T12:45:10.076586Z','{"backend":"assistants","thread_id":"thread_AfEoN0aCuj1Q6EeeLGu0vOSa","endpoint":"http://127.0.0.1:40187/v1"}',X'640393CC410A7EEFAE0B62F1F1874092756C6AF94ABE34DBAC5568AA8AFEA43A');
INSERT INTO "events" VALUES(4,1,4,'01a22756-8040-7cf5-949a-e4cedd1b1263','MessageJournaled',1,'2026-11-29T12:45:10.080455Z','{"message_id":"01a22756-8040-7dc8-9c95-465904a19e77","role":"user","content":"Hello, is anybody there?","exchange_id":"01a22756-8040-70db-aead-717ff0b0b7c8"}',X'628DF477F94D2BDE84E304B614D493827C15F538F48F1AFBADE654179974533E');
INSERT INTO "events" VALUES(5,2,1,'01a22756-804b-7cef-8693-83b3b27ac9e1','ProfileDefined',1,'2026-11-29T12:45:10.091629Z','{"profile_hash":"72b85c712c5c9bb5180352c9bf8220f10e5334a1a420d344ef8373e42b852672","name":"assistant","instructions":""}',X'7DC9DFA5FD69D14244D00145E41B3F29074608D305ECEDA0D94D970C3AF272EB');
INSERT INTO "events" VALUES(6,1,5,'01a22756-804c-7be4-a823-21bb8fb67a49','RunStarted',1,'2026-11-29T12:45:10.092386Z','{"run_id":"01a22756-804c-74a9-b516-2a946566a98a","exchange_id":"01a22756-8040-70db-aead-717ff0b0b7c8","attempt":1,"backend":"assistants","model":"gpt-5.5","profile_hash":"72b85c712c5c9bb5180352c9bf8220f10e5334a1a420d344ef8373e42b852672","memory_version":4,"memory_hash":"f3d4d50d4a52f9c96c309ac0dc9e2b1e66590401509d7fae12fee70eba16c9eb","deadline":"2026-11-29T12:46:40.092364Z"}',X'928197F21028C07BB083CA964DC0783BDEA9D21AF4F808C5065CAB4BA878BC60');
INSERT INTO "events" VALUES(7,1,6,'01a22756-8061-7097-b45d-ec6d843fe3f5','RunCompleted',1,'2026-11-29T12:45:10.113335Z','{"run_id":"01a22756-804c-74a9-b516-2a946566a98a","remote_run_id":"run_hCpRBCYRyNNu7YnnpJhujm3G","thread_id":"thread_AfEoN0aCuj1Q6EeeLGu0vOSa","request_id":"req_0ebc6b5784d80c687fcecb7cc664f9c9","model":"gpt-5.5","finish_reason":"completed","usage":{"input_tokens":4,"output_tokens":6,"total_tokens":10},"duration_seconds":0.016952,"thread_version":4}',X'AAD6DAE48D76EFF5BB9CF21021FD2772E738B79566740632A1C6DD3A8C2383DE');
INSERT INTO "events" VALUES(8,1,7,'01a22756-8061-7968-96d1-9852b3905e06','MessageJournaled',1,'2026-11-29T12:45:10.113335Z','{"message_id":"01a22756-8061-773b-bcaa-6aae7b5d68eb","role":"assistant","content":"You said: Hello, is anybody there?","exchange_id":"01a22756-8040-70db-aead-717ff0b0b7c8","run_id":"01a22756-804c-74a9-b516-2a946566a98a","source":"run"}',X'0FBA398DADB1C2472DB977788D5BC0B4880B239D3D1A9F16BD29CD8960B4140D');
INSERT INTO "events" VALUES(9,1,8,'8f523ad1-de8c-5b40-8886-dd5617c800e3','MessageJournaled',1,'2026-11-29T12:45:10.119871Z','{"message_id":"01a22756-8067-7a85-af46-0c644b0f576d","role":"user","content":"Where is my parcel?","exchange_id":"01a22756-8067-7811-8f05-d2bb11b684e8","idempotency_key":"k-1"}',X'62FAE892050C36D2227FBECEDEC8FEFE2A01190F4CC0F8A3E452C1AEA68B6BEB');
INSERT INTO "events" VALUES(10,1,9,'01a22756-8068-7f77-9fc0-7b74950fda70','RunStarted',1,'2026-11-29T12:45:10.120689Z','{"run_id":"01a22756-8068-74d1-889c-4177ba207635","exchange_id":"01a22756-8067-7811-8f05-d2bb11b684e8","attempt":1,"backend":"assistants","model":"gpt-5.5","profile_hash":"72b85c712c5c9bb5180352c9bf8220f10e5334a1a420d344ef8373e42b852672","memory_version":8,"memory_hash":"a592c3d3b0ce9322b0f07b210ab18847cb0f267aae4404f5fc82c381ba6cb2c3","deadline":"2026-11-29T12:46:40.120672Z"}',X'57F06BE2FB0AD0626BB028ADB2DBAE15BBB96E72C3D6FAD6E1EBA78DEA3289FA');
INSERT INTO "events" VALUES(11,1,10,'01a22756-8083-7055-8328-5fa2f3690d61','RunFailed',1,'2026-11-29T12:45:10.147734Z','{"run_id":"01a22756-8068-74d1-889c-4177ba207635","status":"failed","code":"server_error","message":"Sorry, something went wrong.","request_id":"req_33c32885764ca171a1a923c00f428de5","duration_seconds":0.02418,"remote_run_id":"run_qYh26a0G6egXsKg6TDOrGbTm","thread_id":"thread_AfEoN0aCuj1Q6EeeLGu0vOSa","details":{"endpoint":"GET /threads/{thread_id}/runs/{run_id}","incomplete_reason":null,"prompt_tokens":14,"body":"{\"id\": \"run_qYh26a0G6egXsKg6TDOrGbTm\", \"object\": \"thread.run\", \"status\": \"failed\", \"model\": \"gpt-5.5\", \"last_error\": {\"code\": \"server_error\", \"message\": \"Sorry, something went wrong.\"}, \"usage\": {\"prompt_tokens\": 14, \"completion_tokens\": 0, \"total_tokens\": 14}}","usage":{"input_tokens":14,"output_tokens":0}}}',X'65E27B21645D09D42A01A366A9CD42B0187893E78688343D0A95B2FE5BD1EAAE');
INSERT INTO "events" VALUES(12,1,11,'01a22756-8088-79c5-b0fd-f126938437c4','FallbackUsed',1,'2026-11-29T12:45:10.152298Z','{"exchange_id":"01a22756-8067-7811-8f05-d2bb11b684e8","failed_run_id":"01a22756-8068-74d1-889c-4177ba207635","from_backend":"assistants","to_backend":"chat","reason":"provider_error: server_error: Sorry, something went wrong."}',X'6A27A560CB9804E5751F9F99B7478305A3488306265A41C9314D647260A60D4E');
INSERT INTO "events" VALUES(13,1,12,'01a22756-8088-7611-8c4c-9ac12381c748','RunStarted',1,'2026-11-29T12:45:10.152298Z','{"run_id":"01a22756-8088-726a-a30c-0e7fd4bfb03e","exchange_id":"01a22756-8067-7811-8f05-d2bb11b684e8","attempt":1,"backend":"chat","model":"gpt-5.5","profile_hash":"72b85c712c5c9bb5180352c9bf8220f10e5334a1a420d344ef8373e42b852672","memory_version":10,"memory_hash":"a592c3d3b0ce9322b0f07b210ab18847cb0f267aae4404f5fc82c381ba6cb2c3","deadline":"2026-11-29T12:46:40.152334Z"}',X'0D724EFDE12CE434DB8310958BF0603F765A0AACD33E3DC3FF4242CE9F3D7B00');
INSERT INTO "events" VALUES(14,1,13,'01a22756-808c-75f4-98dc-ac70d30e2b83','RunCompleted',1,'2026-11-29T12:45:10.156779Z','{"run_id":"01a22756-8088-726a-a30c-0e7fd4bfb03e","remote_run_id":"chatcmpl-nfm0mxoupHFvf8oMrDuoQ1gZ","request_id":"req_46bdfa1e982cd1ef6374bbfb2483f8d8","model":"gpt-5.5","finish_reason":"stop","usage":{"input_tokens":18,"output_tokens":6,"total_tokens":24},"duration_seconds":0.00381}',X'DDC34F3B707BAAD23BAE280F04DB145372B535152B3EA8B26B8BC70983A8370B');
INSERT INTO "events" VALUES(15,1,14,'01a22756-808c-7ba8-97bf-2e8148b6db72','MessageJournaled',1,'2026-11-29T12:45:10.156779Z','{"message_id":"01a22756-808c-7286-9818-b88fd0e238a2","role":"assistant","content":"You said: Where is my parcel?","exchange_id":"01a22756-8067-7811-8f05-d2bb11b684e8","run_id":"01a22756-8088-726a-a30c-0e7fd4bfb03e","source":"fallback"}',X'DED050081A6DCC8CB841E6854076798E2EE14793C270F919FDFD47D55B47ADAC');
INSERT INTO "events" VALUES(16,1,15,'01a22756-8096-767a-af9a-00bb2bce3564','RunStarted',1,'2026-11-29T12:45:10.166833Z','{"run_id":"01a22756-8096-762d-8691-93f51de00fa7","exchange_id":"01a22756-8096-7b87-87a8-096bccc3962d","attempt":1,"backend":"my-llm","model":"llama","memory_version":14,"memory_hash":"b2aa4917c73572be040b12415c3c8125c0cc111324ac4392a39bd06dccdbc07c","deadline":"2026-11-29T12:55:40.166819Z"}',X'82D2F3143564B26250252D5B810FC6B1F711823EE4A8BC676DAB7E61B23CACFC');
INSERT INTO "events" VALUES(17,1,16,'01a22756-8097-7e2c-bc19-1434f521d44c','RunCompleted',1,'2026-11-29T12:45:10.167485Z','{"run_id":"01a22756-8096-762d-8691-93f51de00fa7","usage":{"input_tokens":0,"output_tokens":0,"total_tokens":0},"duration_seconds":9.1e-05}',X'B72200189AEABBBA7C299BD337185C648D4E213D11921E326E88196FE00A536E');
INSERT INTO "events" VALUES(18,1,17,'01a22756-8097-7733-b51b-887267156218','MessageJournaled',1,'2026-11-29T12:45:10.167485Z','{"message_id":"01a22756-8097-7dcb-9bf6-36769c1721f0","role":"assistant","content":"It is on its way.","exchange_id":"01a22756-8096-7b87-87a8-096bccc3962d","run_id":"01a22756-8096-762d-8691-93f51de00fa7","source":"run"}',X'D0203C6E11A8FF72AA30E2C25F9FB0DC9D73EB86C5B1ED44B021A223F6560EE4');
INSERT INTO "events" VALUES(19,1,18,'01a22756-80ba-7e2c-a952-6df39e7c586d','MessageJournaled',1,'2026-11-29T12:45:10.202121Z','{"message_id":"01a22756-80ba-7a3e-8c02-3c8fcc9fd09e","role":"user","content":"And the other one?","exchange_id":"01a22756-80ba-7730-a522-216476f6e1bb"}',X'C40112FBF4E59D349EED88107C5E0692F5AB5FF95EE351F7151323EDBD57362D');
INSERT INTO "events" VALUES(20,1,19,'01a22756-80fb-71e0-81e4-ca646804ee4e','RunStarted',1,'2026-11-29T12:45:10.267539Z','{"run_id":"01a22756-80fb-783f-9336-4133a2dc3eac","exchange_id":"01a22756-80ba-7730-a522-216476f6e1bb","attempt":1,"backend":"responses","model":"gpt-5.5","profile_hash":"72b85c712c5c9bb5180352c9bf8220f10e5334a1a420d344ef8373e42b852672","memory_version":18,"memory_hash":"6c24b31fa8ba7627e3638d940fd779f5d724daa057dc6eb13381eb1394f42533","deadline":"2026-11-29T12:46:40.267502Z"}',X'A73AFDB753F3AA5CAABB0C66F0F614AB67DCC733E056E9996783FE8E6CA9638A');
INSERT INTO "events" VALUES(21,1,20,'01a22756-8107-77e3-942c-c63ef307dc5f','ThreadLinked',1,'2026-11-29T12:45:10.279216Z','{"backend":"conversations","thread_id":"conv_98050284af53fc6b10453e5882f20583cdb99f4c1380190f","endpoint":"http://127.0.0.1:40187/v1"}',X'96E2C19193289D896726DEA2D3CB32D665938C295D0AD48EA86046B548779932');
INSERT INTO "events" VALUES(22,1,21,'01a22756-8110-7cd9-be60-804bb26eacde','RunCompleted',1,'2026-11-29T12:45:10.288720Z','{"run_id":"01a22756-80fb-783f-9336-4133a2dc3eac","remote_run_id":"resp_681d4c1be4d34364afb395ab1565e81f40e98ef76c69f0cc","thread_id":"conv_98050284af53fc6b10453e5882f20583cdb99f4c1380190f","request_id":"req_6fef2eca43ca7611507fcaeb96688c60","model":"gpt-5.5","finish_reason":"completed","usage":{"input_tokens":33,"output_tokens":6,"total_tokens":39},"duration_seconds":0.006763,"thread_version":18}',X'DC8BFF4EA194CFE369AE3AC7472FBF41D5090BA376FA08F77F3BF128D59C25B3');
INSERT INTO "events" VALUES(23,1,22,'01a22756-8110-7263-9080-9f01c1094c75','MessageJournaled',1,'2026-11-29T12:45:10.288720Z','{"message_id":"01a22756-8110-7f29-9bb1-222951e4243e","role":"assistant","content":"You said: And the other one?","exchange_id":"01a22756-80ba-7730-a522-216476f6e1bb","run_id":"01a22756-80fb-783f-9336-4133a2dc3eac","source":"run"}',X'CB666B6C3680676FBDB579C26FE9A6C88443C08073FEAD407A949E5BF30D59B6');
INSERT INTO "events" VALUES(24,3,1,'01a22756-8137-7742-8dfd-224ce28de2de','JobItemsPlanned',1,'2026-11-29T12:45:10.327760Z','{"first":0,"pins":[{"key":"customer-42","version":22}]}',X'7A7F8B58462C48665554248AFA628AD2479FA38ECA29C1428740C080F26F7854');
INSERT INTO "events" VALUES(25,3,2,'01a22756-8138-7ab0-8fcb-45f11e883ffb','JobStarted',1,'2026-11-29T12:45:10.328559Z','{"kind":"rebuild","items":1,"options":{"to":"conversations","at":null,"fresh":true}}',X'665BA5BB5CFE6C04672273A0C530F6DEEDAC66905A19E294DCC931AC5BC9966A');
INSERT INTO "events" VALUES(26,1,23,'01a22756-8141-7cf3-af6c-d4b1422dd593','ThreadRebuilt',1,'2026-11-29T12:45:10.337077Z','{"backend":"conversations","thread_id":"conv_53b13874b73de2eb6eec65df02a11c48ed94b98080a46a46","old_thread_id":"conv_98050284af53fc6b10453e5882f20583cdb99f4c1380190f","endpoint":"http://127.0.0.1:40187/v1","memory_version":22,"message_count":8,"digest":"e8e843bcdf2c51ce00c6b52af6ab94b0ffe7deb27084929d2e52c0167a267bea"}',X'684250FB26F6A63445E17088905A2D039EA8E52D3D529FB1710C511EAEEFB2EA');
INSERT INTO "events" VALUES(27,3,3,'01a22756-8142-7edc-b3b7-0853bb980024','JobItemsEnded',1,'2026-11-29T12:45:10.338248Z','{"items":[{"item":0,"key":"customer-42","backend":"conversations","old_thread_id":"conv_98050284af53fc6b10453e5882f20583cdb99f4c1380190f","thread_id":"conv_53b13874b73de2eb6eec65df02a11c48ed94b98080a46a46","messages":8,"sent":8,"digest":"e8e843bcdf2c51ce00c6b52af6ab94b0ffe7deb27084929d2e52c0167a267bea","verified":true,"state":"done"}]}',X'CE9A3661DDA6A635C85E68F05BB8911E2990B832FBE36955EE9708B397CC766B');
INSERT INTO "events" VALUES(28,1,24,'1e826fbe-85b5-5c31-93b4-78cdd64e1c51','MessageJournaled',1,'2026-11-29T16:03:58.928934Z','{"message_id":"01a2280c-8550-7ae4-b180-84b8aeb83dc4","role":"user","content":"\u0413\u0434\u0435 \u043c\u043e\u044f \u043f\u043e\u0441\u044b\u043b\u043a\u0430?","idempotency_key":"request-7"}',X'091E8E42C9CC90FC9C862DDADC4B115A8B0BA5030781771175FCE2A59CA6DE15');
INSERT INTO "events" VALUES(29,1,25,'01a2280c-8553-7101-8df8-cd596d887818','MessageJournaled',1,'2026-11-29T16:03:58.931555Z','{"message_id":"01a2280c-8553-797c-a71e-03216a7d256c","role":"user","content":"Half a character is escaped: caf\u00e9 \ud83d\udce6"}',X'0B1A251809D78C59CA9CB9D98388C4431249C31CF750B190412C68378F40A8EE');
INSERT INTO "events" VALUES(30,1,26,'01a2280c-8570-7c83-a164-54f5f86212cd','RunStarted',1,'2026-11-29T16:03:58.960514Z','{"run_id":"01a2280c-8570-78a1-97eb-7d3f89ff49ee","exchange_id":"01a2280c-8570-7b16-be15-30fda00eb395","attempt":1,"backend":"chat","model":"m","memory_version":25,"memory_hash":"70291a1e5129b1dddbabcfed7fae962a9241566d5b20117cf6a422cc29959052","deadline":"2026-11-29T16:14:28.960489Z"}',X'ED18FFBB12690103DB3F440813E240DF02AAEEB1B743BC10D8D4EDF48B474CEB');
INSERT INTO "events" VALUES(31,1,27,'01a2280c-8572-7408-83f5-6804de33c0fa','RunCompleted',1,'2026-11-29T16:03:58.962957Z','{"run_id":"01a2280c-8570-78a1-97eb-7d3f89ff49ee","usage":{"input_tokens":0,"output_tokens":0,"total_tokens":0},"duration_seconds":0.000128}',X'EC94C8B6F049BD08A0E7E0C12075718C87DD179539DAD6CA91C5F749546635C0');
INSERT INTO "events" VALUES(32,1,28,'01a2280c-8573-7d7c-b7a0-a8c4ac29b221','MessageJournaled',1,'2026-11-29T16:03:58.962957Z','{"message_id":"01a2280c-8572-7198-b670-2e4db7462356","role":"assistant","content":"\u0412 \u043f\u0443\u0442\u0438.","exchange_id":"01a2280c-8570-7b16-be15-30fda00eb395","run_id":"01a2280c-8570-78a1-97eb-7d3f89ff49ee","source":"run"}',X'9E2A61FEB960966A0AE90BAA72781DEF68652E72720D3E9B066F4D7D60F09227');
INSERT INTO "events" VALUES(33,4,1,'01a2280c-bfc8-776a-83ff-d52584bb5c75','ConversationStarted',1,'2026-11-29T16:04:13.896212Z','{"key":"g5.jsonl:1","metadata":{"metadata":{"threadledger_key":"imported-1"}}}',X'945B2CF589033A1945B83F38C8F2620E3DDF034B0FCCA6C61AB035D6EFADF9CB');
INSERT INTO "events" VALUES(34,4,2,'0c5f9817-33b3-5528-8a0e-c1d19f0d3c76','MessageJournaled',1,'2026-11-29T16:04:13.896212Z','{"message_id":"01a2280c-bfc8-71bf-b9ac-cbd8442de9fe","role":"user","content":"Old question","source":"import","idempotency_key":"import:0"}',X'0CFB223F9D4D8114ADE7CB950FD90462AD7017FCD8A4C1831030BE45912E0725');
INSERT INTO "events" VALUES(35,4,3,'dbde2502-171d-599c-9055-cf7960fed83d','MessageJournaled',1,'2026-11-29T16:04:13.896212Z','{"message_id":"01a2280c-bfc8-769e-8265-28b191c79d8a","role":"assistant","content":"Old answer","source":"import","idempotency_key":"import:1"}',X'0325D8215763550F6746FEB082E40B4F41F838C30BF40DA102EBDA67D82E9C04');
INSERT INTO "events" VALUES(36,5,1,'01a2280c-c1f3-7d5e-82c7-f2a5ebcef7e5','ConversationStarted',1,'2026-11-29T16:04:14.451297Z','{"key":"tools","metadata":{"title":"A talk","create_time":1767583930.285031,"default_model_slug":"gpt-5"}}',X'D0263D9F96F2A7EB8B7523DDA5E5DD1C0442386B88891A654E7BBDBDCBD8F23F');
INSERT INTO "events" VALUES(37,5,2,'75736c20-ff5e-56fa-b38f-62467a9f790a','MessageJournaled',1,'2026-11-29T16:04:14.451297Z','{"message_id":"01a2280c-c1f3-77cb-b9be-1d9df10323bc","role":"user","content":"Plot it","source":"import","idempotency_key":"import:chatgpt:u1","written_at":"2026-01-05T03:32:10.285031Z","origin":{"message_id":"u1","thread_id":"tools","created_at":1767583930.285031}}',X'74E7167BC1E0494DA11908408920B2CA4F7F1A54F67ADA9D63A8D7A5160F60E1');
INSERT INTO "events" VALUES(38,5,3,'65814a1f-cb3c-53ad-8c8d-bff6d0437e3c','MessageJournaled',1,'2026-11-29T16:04:14.451297Z','{"message_id":"01a2280c-c1f3-722f-ad97-5c2a6e0d9757","role":"assistant","tool_calls":[{"id":"k1","type":"function","function":{"name":"python","arguments":"print(1)"}}],"source":"import","idempotency_key":"import:chatgpt:k1","written_at":"2026-01-05T03:32:10.285031Z","origin":{"message_id":"k1","thread_id":"tools","created_at":1767583930.285031}}',X'319A3BB3EA88FB8CC4D662B9181547B91FDD044491F133E3F0ECCBC42435DDA2');
INSERT INTO "events" VALUES(39,5,4,'f6e8581d-8ae6-593b-ad61-c3911423db04','MessageJournaled',1,'2026-11-29T16:04:14.451297Z','{"message_id":"01a2280c-c1f3-73e8-97cb-cc6fbf916404","role":"tool","content":"1\n","tool_call_id":"k1","source":"import","idempotency_key":"import:chatgpt:o1","written_at":"2026-01-05T03:32:10.285031Z","origin":{"message_id":"o1","thread_id":"tools","created_at":1767583930.285031}}',X'511A9150CBECF3EDB3D25827B06C8D30BF7DA0F06D2E670F4531EAFC21A20DE9');
INSERT INTO "events" VALUES(40,5,5,'b326fda3-940f-5cf8-8476-5a98adffdc09','MessageJournaled',1,'2026-11-29T16:04:14.451297Z','{"message_id":"01a2280c-c1f3-7367-8b2a-adecc981049f","role":"assistant","tool_calls":[{"id":"k2","type":"function","function":{"name":"browser","arguments":"search(\"x\")"}}],"source":"import","idempotency_key":"import:chatgpt:k2","written_at":"2026-01-05T03:32:10.285031Z","origin":{"message_id":"k2","thread_id":"tools","created_at":1767583930.285031}}',X'ABBF567AFF8EF3119E040711EA730AF1ACAD89D613474DB9EDE5C51823E876EE');
INSERT INTO "events" VALUES(41,5,6,'ffea32e7-3c97-556b-ab1b-3b9eb5c01de0','MessageJournaled',1,'2026-11-29T16:04:14.451297Z','{"message_id":"01a2280c-c1f3-7204-a47a-d3a019cea52b","role":"tool","content":"L0: hits","tool_call_id":"k2","source":"import","idempotency_key":"import:chatgpt:o2","written_at":"2026-01-05T03:32:10.285031Z","origin":{"message_id":"o2","thread_id":"tools","created_at":1767583930.285031,"parts":[{"content_type":"tether_browsing_display","result":"L0: hits","summary":null,"assets":null,"tether_id":null,"type":"tether_browsing_display"}]}}',X'19447262EE7A10E9C136B2527E97B4B2498FEB0977938B85DD7979CB0326F5E1');
INSERT INTO "events" VALUES(42,5,7,'cce22a36-4e32-570e-9482-9cacfab29a45','MessageJournaled',1,'2026-11-29T16:04:14.451297Z','{"message_id":"01a2280c-c1f3-7848-8d0b-37a9ba3a72f8","role":"assistant","content":[{"type":"text","text":"[tool result browser]"},{"type":"text","text":"quoted words"}],"source":"import","idempotency_key":"import:chatgpt:o3","written_at":"2026-01-05T03:32:10.285031Z","origin":{"message_id":"o3","thread_id":"tools","created_at":1767583930.285031,"parts":[{"content_type":"tether_quote","url":"http://example.test/a","domain":"example.test","text":"quoted words","title":"A page","type":"tether_quote"}]}}',X'F282F1280D1AA1AD5AD0877844476229B185F986738C39884174323CA442C73A');
INSERT INTO "events" VALUES(43,5,8,'4d30ae97-584e-5f21-9a8f-d060493b1081','MessageJournaled',1,'2026-11-29T16:04:14.451297Z','{"message_id":"01a2280c-c1f3-7daa-a07f-d9b0f8bbb01e","role":"assistant","content":[{"type":"text","text":"[tool result browser]"},{"type":"text","text":"Error: timed out"}],"source":"import","idempotency_key":"import:chatgpt:e1","written_at":"2026-01-05T03:32:10.285031Z","origin":{"message_id":"e1","thread_id":"tools","created_at":1767583930.285031,"parts":[{"content_type":"system_error","name":"tool_error","text":"Error: timed out","type":"system_error"}]}}',X'BE61A6AF0C6B0A7FD18877627EE7963AE5E61598EC56E1897EB11590DE6A49FA');
INSERT INTO "events" VALUES(44,5,9,'af025910-cd4d-58c6-9c83-6e8a953c3848','MessageJournaled',1,'2026-11-29T16:04:14.451297Z','{"message_id":"01a2280c-c1f3-74e8-bf99-146ae785e03c","role":"assistant","content":"It says so.","source":"import","idempotency_key":"import:chatgpt:a1","written_at":"2026-01-05T03:32:10.285031Z","origin":{"message_id":"a1","thread_id":"tools","created_at":1767583930.285031}}',X'ACD25D1C682FB032333288E34907F24F7C7B80C7A58AFD67A26381F189ABEA50');
CREATE TABLE job_items (
            job TEXT NOT NULL,
            item INTEGER NOT NULL,
            ended INTEGER NOT NULL,
            holder TEXT,
            held_until TEXT,
            PRIMARY KEY (job, item)
        );
INSERT INTO "job_items" VALUES('01a22756-8137-7b7c-833d-345e823f512b',0,1,NULL,NULL);
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
INSERT INTO "mirror_heads" VALUES('conversation:customer-42','assistants','thread_AfEoN0aCuj1Q6EeeLGu0vOSa',22,1,NULL,NULL,'[]');
INSERT INTO "mirror_heads" VALUES('conversation:customer-42','conversations','conv_53b13874b73de2eb6eec65df02a11c48ed94b98080a46a46',22,1,NULL,NULL,'[]');
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
INSERT INTO "streams" VALUES(1,'conversation:customer-42',28,1,'{"key":"customer-42","version":28,"started_at":"2026-11-29T12:45:09.439573Z","last_at":"2026-11-29T16:03:58.962957Z","messages":11,"exchanges":5,"failed_runs":1,"last_exchange_id":"01a2280c-8570-7b16-be15-30fda00eb395","open_runs":{},"open_exchanges":{},"abandoned":{},"unanswered":0,"cut_version":0,"shadow_runs":{},"answered":["01a22756-8040-70db-aead-717ff0b0b7c8","01a22756-8067-7811-8f05-d2bb11b684e8","01a22756-8096-7b87-87a8-096bccc3962d","01a22756-80ba-7730-a522-216476f6e1bb","01a2280c-8570-7b16-be15-30fda00eb395"],"links":{"assistants":{"thread_id":"thread_AfEoN0aCuj1Q6EeeLGu0vOSa","endpoint":"http://127.0.0.1:40187/v1","version":3,"lost":null},"conversations":{"thread_id":"conv_53b13874b73de2eb6eec65df02a11c48ed94b98080a46a46","endpoint":"http://127.0.0.1:40187/v1","version":23,"lost":null}}}',NULL);
INSERT INTO "streams" VALUES(2,'profile:72b85c712c5c9bb5180352c9bf8220f10e5334a1a420d344ef8373e42b852672',1,1,'{}',NULL);
INSERT INTO "streams" VALUES(3,'job:01a22756-8137-7b7c-833d-345e823f512b',3,1,'{"job_id":"01a22756-8137-7b7c-833d-345e823f512b","version":3,"kind":"rebuild","options":{"to":"conversations","at":null,"fresh":true},"items":1,"planned":1,"done":1,"skipped":0,"failed":0,"started_at":"2026-11-29T12:45:10.328559Z","last_at":"2026-11-29T12:45:10.338248Z","cancelled":false}',NULL);
INSERT INTO "streams" VALUES(4,'conversation:g5.jsonl:1',3,1,'{"key":"g5.jsonl:1","version":3,"started_at":"2026-11-29T16:04:13.896212Z","last_at":"2026-11-29T16:04:13.896212Z","messages":2,"exchanges":0,"failed_runs":0,"last_exchange_id":null,"open_runs":{},"open_exchanges":{},"abandoned":{},"unanswered":0,"cut_version":0,"shadow_runs":{},"answered":[],"links":{}}',NULL);
INSERT INTO "streams" VALUES(5,'conversation:tools',9,1,'{"key":"tools","version":9,"started_at":"2026-11-29T16:04:14.451297Z","last_at":"2026-11-29T16:04:14.451297Z","messages":8,"exchanges":0,"failed_runs":0,"last_exchange_id":null,"open_runs":{},"open_exchanges":{},"abandoned":{},"unanswered":0,"cut_version":0,"shadow_runs":{},"answered":[],"links":{}}',NULL);
CREATE TABLE thread_creations (
            creation TEXT PRIMARY KEY,
            stream TEXT NOT NULL,
            mirror TEXT NOT NULL,
            endpoint TEXT,
            thread_id TEXT,
            at TEXT NOT NULL
        );
CREATE TABLE threadledger (schema_version INTEGER NOT NULL, created_at TEXT NOT NULL, ledger_id TEXT);
INSERT INTO "threadledger" VALUES(5,'2026-11-29T12:45:09.386106Z','01a2280c-84ac-7ad9-9252-fce458b31233');
CREATE TABLE tracking (
            view TEXT NOT NULL,
            version INTEGER NOT NULL,
            generation INTEGER NOT NULL,
            position INTEGER NOT NULL,
            live INTEGER NOT NULL, leaf BLOB,
            PRIMARY KEY (view, version, generation)
        );
INSERT INTO "tracking" VALUES('audit',30201,1,18,1,NULL);
INSERT INTO "tracking" VALUES('conversations',201,1,44,1,X'ACD25D1C682FB032333288E34907F24F7C7B80C7A58AFD67A26381F189ABEA50');
CREATE TABLE unfinished_threads (
            stream TEXT NOT NULL,
            mirror TEXT NOT NULL,
            thread_id TEXT NOT NULL,
            digest TEXT NOT NULL,
            PRIMARY KEY (stream, mirror)
        );
INSERT INTO "unfinished_threads" VALUES('conversation:customer-42','assistants','thread_begun','0f');
CREATE TABLE view_audit_30201_1_groups (
	failure_group TEXT NOT NULL, 
	cause TEXT NOT NULL, 
	backend TEXT NOT NULL, 
	message TEXT NOT NULL, 
	PRIMARY KEY (failure_group)
);
INSERT INTO "view_audit_30201_1_groups" VALUES('c16b6d8046','provider_error','assistants','Sorry, something went wrong.');
CREATE TABLE view_audit_30201_1_runs (
	started INTEGER NOT NULL, 
	completed INTEGER, 
	failed INTEGER, 
	id_reversed TEXT NOT NULL, 
	exchange_id TEXT NOT NULL, 
	conversation TEXT NOT NULL, 
	started_at TEXT NOT NULL, 
	ended_at TEXT, 
	backend TEXT, 
	model TEXT, 
	profile TEXT, 
	code TEXT, 
	cause TEXT, 
	failure_group TEXT, 
	seconds DOUBLE, 
	input_tokens INTEGER NOT NULL, 
	output_tokens INTEGER NOT NULL, 
	next TEXT NOT NULL, 
	tells SMALLINT NOT NULL, 
	abandoned SMALLINT NOT NULL, 
	answered_by TEXT, 
	PRIMARY KEY (started)
);
INSERT INTO "view_audit_30201_1_runs" VALUES(6,7,NULL,'a89a665649a2-615b-9a47-c408-65722a10','01a22756-8040-70db-aead-717ff0b0b7c8','conversation:customer-42','2026-11-29T12:45:10.092386Z','2026-11-29T12:45:10.113335Z','assistants','gpt-5.5','72b85c712c5c9bb5180352c9bf8220f10e5334a1a420d344ef8373e42b852672',NULL,NULL,NULL,0.016952,4,6,'open',1,0,'01a22756-804c-74a9-b516-2a946566a98a');
INSERT INTO "view_audit_30201_1_runs" VALUES(10,NULL,11,'536702ab7714-c988-1d47-8608-65722a10','01a22756-8067-7811-8f05-d2bb11b684e8','conversation:customer-42','2026-11-29T12:45:10.120689Z','2026-11-29T12:45:10.147734Z','assistants','gpt-5.5','72b85c712c5c9bb5180352c9bf8220f10e5334a1a420d344ef8373e42b852672','server_error','provider_error','c16b6d8046',0.02418,0,0,'fallback',1,0,'01a22756-8088-726a-a30c-0e7fd4bfb03e');
INSERT INTO "view_audit_30201_1_runs" VALUES(13,14,NULL,'e30bfb4df7e0-c03a-a627-8808-65722a10','01a22756-8067-7811-8f05-d2bb11b684e8','conversation:customer-42','2026-11-29T12:45:10.152298Z','2026-11-29T12:45:10.156779Z','chat','gpt-5.5','72b85c712c5c9bb5180352c9bf8220f10e5334a1a420d344ef8373e42b852672',NULL,NULL,NULL,0.00381,18,6,'open',1,0,'01a22756-8088-726a-a30c-0e7fd4bfb03e');
INSERT INTO "view_audit_30201_1_runs" VALUES(16,17,NULL,'7af00ed15f39-1968-d267-6908-65722a10','01a22756-8096-7b87-87a8-096bccc3962d','conversation:customer-42','2026-11-29T12:45:10.166833Z','2026-11-29T12:45:10.167485Z','my-llm','llama',NULL,NULL,NULL,NULL,9.1e-05,0,0,'open',1,0,'01a22756-8096-762d-8691-93f51de00fa7');
CREATE TABLE view_conversations_201_1_states (
	stream TEXT NOT NULL, 
	position INTEGER NOT NULL, 
	state TEXT NOT NULL, 
	written_at TEXT, 
	PRIMARY KEY (stream)
);
INSERT INTO "view_conversations_201_1_states" VALUES('conversation:customer-42',32,'{"key":"customer-42","version":28,"started_at":"2026-11-29T12:45:09.439573Z","last_at":"2026-11-29T16:03:58.962957Z","messages":11,"exchanges":5,"failed_runs":1,"last_exchange_id":"01a2280c-8570-7b16-be15-30fda00eb395","open_runs":{},"open_exchanges":{},"abandoned":{},"unanswered":0,"cut_version":0,"shadow_runs":{},"answered":["01a22756-8040-70db-aead-717ff0b0b7c8","01a22756-8067-7811-8f05-d2bb11b684e8","01a22756-8096-7b87-87a8-096bccc3962d","01a22756-80ba-7730-a522-216476f6e1bb","01a2280c-8570-7b16-be15-30fda00eb395"],"links":{"assistants":{"thread_id":"thread_AfEoN0aCuj1Q6EeeLGu0vOSa","endpoint":"http://127.0.0.1:40187/v1","version":3,"lost":null},"conversations":{"thread_id":"conv_53b13874b73de2eb6eec65df02a11c48ed94b98080a46a46","endpoint":"http://127.0.0.1:40187/v1","version":23,"lost":null}}}',NULL);
INSERT INTO "view_conversations_201_1_states" VALUES('conversation:g5.jsonl:1',35,'{"key":"g5.jsonl:1","version":3,"started_at":"2026-11-29T16:04:13.896212Z","last_at":"2026-11-29T16:04:13.896212Z","messages":2,"exchanges":0,"failed_runs":0,"last_exchange_id":null,"open_runs":{},"open_exchanges":{},"abandoned":{},"unanswered":0,"cut_version":0,"shadow_runs":{},"answered":[],"links":{}}',NULL);
INSERT INTO "view_conversations_201_1_states" VALUES('conversation:tools',44,'{"key":"tools","version":9,"started_at":"2026-11-29T16:04:14.451297Z","last_at":"2026-11-29T16:04:14.451297Z","messages":8,"exchanges":0,"failed_runs":0,"last_exchange_id":null,"open_runs":{},"open_exchanges":{},"abandoned":{},"unanswered":0,"cut_version":0,"shadow_runs":{},"answered":[],"links":{}}','2026-01-05T03:32:10.285031Z');
CREATE INDEX streams_by_due_at ON streams (due_at) WHERE due_at IS NOT NULL;
CREATE TRIGGER events_are_not_changed BEFORE UPDATE ON events
            BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
CREATE TRIGGER events_are_not_deleted BEFORE DELETE ON events
            BEGIN SELECT RAISE(ABORT, 'events are never deleted'); END;
CREATE INDEX view_audit_30201_1_by_id ON view_audit_30201_1_runs (id_reversed);
CREATE INDEX view_audit_30201_1_by_backend ON view_audit_30201_1_runs (backend, tells, ended_at, started);
CREATE INDEX view_audit_30201_1_by_exchange ON view_audit_30201_1_runs (exchange_id);
CREATE INDEX view_audit_30201_1_by_end ON view_audit_30201_1_runs (ended_at, started) WHERE failed IS NOT NULL;
CREATE INDEX view_conversations_201_1_by_position ON view_conversations_201_1_states (position);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('events',44);
COMMIT;
