BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE blobs (
	sha256 VARCHAR(64) NOT NULL, 
	payload BLOB NOT NULL, 
	PRIMARY KEY (sha256)
);
INSERT INTO "blobs" VALUES('2c4e5e9baac9b34c35169bc40a28e119737be566f4d1bdc42d667dba413fb19f',X'7B226E616D65223A20226D6F64656C2E6C61796572732E302E696E7075745F6C617965726E6F726D2E776569676874222C20227368617065223A205B36345D2C20226E756D5F706172616D6574657273223A2036342C20226D65616E223A20312E302C2022737464223A20302E302C20226D696E223A20312E302C20226D6178223A20312E302C20226C325F6E6F726D223A20382E302C20226D656469616E223A20312E302C20226162735F6D65616E223A20312E302C20227A65726F735F70657263656E74616765223A20302E302C20226E6561725F7A65726F5F70657263656E74616765223A20302E302C20226C315F6E6F726D223A2036342E302C2022686973746F6772616D223A207B2262696E73223A2035302C2022636F756E7473223A205B302C20302C20302C20302C20302C20302C20302C20302C20302C20302C20302C20302C20302C20302C20302C20302C20302C20302C20302C20302C20302C20302C20302C20302C20302C2036342C20302C20302C20302C20302C20302C20302C20302C20302C20302C20302C20302C20302C20302C20302C20302C20302C20302C20302C20302C20302C20302C20302C20302C20305D2C20226564676573223A205B302E352C20302E353139393939393830393236353133372C20302E353430303030303231343537363732312C20302E353630303030303032333834313835382C20302E353739393939393833333130363939352C20302E363030303030303233383431383537392C20302E363230303030303034373638333731362C20302E363339393939393835363934383835332C20302E363539393939393636363231333938392C20302E363830303030303037313532353537342C20302E3639393939393938383037393037312C20302E373139393939393639303035353834372C20302E373430303030303039353336373433322C20302E373539393939393930343633323536382C20302E373739393939393731333839373730352C20302E3830303030303031313932303932392C20302E383139393939393932383437343432362C20302E383339393939393733373733393536332C20302E383630303030303134333035313134372C20302E383739393939393935323331363238342C20302E383939393939393736313538313432312C20302E393230303030303136363839333030352C20302E393339393939393937363135383134322C20302E393539393939393738353432333237392C20302E393830303030303139303733343836332C20312E302C20312E303139393939393830393236353133372C20312E303339393939393631383533303237332C20312E303630303030303631393838383330362C20312E303830303030303432393135333434322C20312E3130303030303032333834313835382C20312E313230303030303034373638333731362C20312E313339393939393835363934383835332C20312E3135393939393936363632313339392C20312E313830303030303636373537323032312C20312E323030303030303437363833373135382C20312E323230303030303238363130323239352C20312E323430303030303039353336373433322C20312E323539393939393930343633323536382C20312E323739393939393731333839373730352C20312E323939393939393532333136323834322C20312E333230303030303532343532303837342C20312E3334303030303033333337383630312C20312E333630303030303134333035313134372C20312E333739393939393935323331363238342C20312E3339393939393937363135383134322C20312E343139393939393537303834363535382C20312E3434303030303035373232303435392C20312E343630303030303338313436393732372C20312E343830303030303139303733343836332C20312E355D7D2C202270657263656E74696C6573223A207B2235223A20312E302C20223235223A20312E302C20223530223A20312E302C20223735223A20312E302C20223935223A20312E307D7D');
CREATE TABLE events (
	run_key INTEGER NOT NULL, 
	seq INTEGER NOT NULL, 
	at_us BIGINT NOT NULL, 
	kind VARCHAR(40) NOT NULL, 
	version SMALLINT NOT NULL, 
	body TEXT NOT NULL, 
	PRIMARY KEY (run_key, seq), 
	FOREIGN KEY(run_key) REFERENCES runs (run_key)
)
 WITHOUT ROWID

;
INSERT INTO "events" VALUES(1,0,1795439735514518,'RunStarted',1,'{"attention_kernel":"sdpa","behaviour":{"at_context_limit":"refuse","cache_bytes":8589934592,"cache_policy":{"continues":"forward","error":3.871497938234825e-06,"mode":"crop","reason":"GrowingLayer"},"candidates":5,"history":"exact","prefill_chunk_tokens":512,"template_settings":{}},"context_tokens":2048,"device":"cpu","dtype":"float32","environment":{"cpu_capability":"AVX512","cuda":"","gpu":"","machine":"x86_64","platform":"Linux-6.18.44-fc-v595-x86_64-with-glibc2.36","python":"3.11.7","torch":"2.13.0+cpu","transformers":"5.23.0"},"generation_config":{"_from_model_config":true,"bos_token_id":1,"eos_token_id":2,"output_attentions":false,"output_hidden_states":false,"pad_token_id":0,"transformers_version":"5.23.0","use_cache":true},"model":"tiny-llama","name":"schema 0001","sampler_sha256":"6ece7fe8f1cc1d5cfb765319cae84f7a9aa7f17af42260238900ef990e582f5c","seed":7,"template_sha256":"e229a6b0f0bdab80c1b265f65ff5817d7d4ea341ec25f20eb6ced646726fc384","threads":2,"tokenizer_sha256":"4cbc34607af02db4211e00b1e02328b643a8723aaace6bba9fbdebf0a91ae8ad","weights_sha256":"a8bd4636eb93b2b97ddf88c86f4e5b491a65d67d749291d3c8756e2121b20035"}');
INSERT INTO "events" VALUES(1,1,1795439735552611,'SystemPromptCached',1,'{"chunks":[18],"content":"Be kind.","disk_reason":"","duration_us":18186,"ids":[1,85,91,85,86,71,79,201,36,71,223,77,75,80,70,16,2,201],"kv_bytes":112128,"sha256":"277276a01504c273d853b2be3cfb2d7e015b295625502f1ce7066f1db30a2df6","source":"","text":"<|im_start|>system\nBe kind.<|im_end|>\n"}');
INSERT INTO "events" VALUES(1,2,1795439735560612,'MessageAdded',1,'{"content":"One?","ids":[1,87,85,71,84,201,49,80,71,33,2,201],"role":"user","text":"<|im_start|>user\nOne?<|im_end|>\n","tool_call_id":null}');
INSERT INTO "events" VALUES(1,3,1795439735561007,'TurnStarted',1,'{"added_ids":[1,67,85,85,75,85,86,67,80,86,201],"added_text":"<|im_start|>assistant\n","history_reason":"","kept_chars":70,"kept_tokens":30,"prompt_tokens":41,"sampling":{"assistant_confidence_threshold":0.4,"assistant_lookbehind":10,"bos_token_id":1,"diversity_penalty":0.0,"do_sample":false,"early_stopping":false,"encoder_no_repeat_ngram_size":0,"encoder_repetition_penalty":1.0,"eos_token_id":2,"epsilon_cutoff":0.0,"eta_cutoff":0.0,"length_penalty":1.0,"max_new_tokens":6,"no_repeat_ngram_size":0,"num_assistant_tokens":20,"num_assistant_tokens_schedule":"constant","num_beam_groups":1,"num_beams":1,"num_return_sequences":1,"output_attentions":false,"output_hidden_states":false,"output_scores":false,"pad_token_id":0,"remove_invalid_values":false,"repetition_penalty":1.0,"return_dict_in_generate":false,"target_lookbehind":10,"temperature":1.0,"top_k":50,"top_p":1.0,"typical_p":1.0,"use_cache":true},"seed":null,"turn":1,"unreplayable":[]}');
INSERT INTO "events" VALUES(1,4,1795439735562451,'CacheDecided',1,'{"cached_tokens":18,"computed_tokens":23,"cropped_tokens":0,"decision":"hit","disk_reason":"","divergence_cached_id":null,"divergence_index":null,"divergence_prompt_id":null,"key_field":null,"prompt_tokens":41,"reason":"extends","reused_tokens":18,"source":"memory","turn":1}');
INSERT INTO "events" VALUES(1,5,1795439735568302,'PrefillCompleted',1,'{"chunks":[23],"duration_us":4508,"kv_bytes":112128,"peak_bytes":469217280,"turn":1}');
INSERT INTO "events" VALUES(1,12,1795439735689418,'TurnFinished',1,'{"duration_us":128669,"generated_tokens":6,"generator_sha256":"","stop_reason":"max_new_tokens","stop_text":"","text":"��I�?�","turn":1}');
INSERT INTO "events" VALUES(1,13,1795439735692412,'ToolCalled',1,'{"arguments":{"layer_name":"model.layers.0.input_layernorm.weight"},"call_id":"call_1","name":"get_weight_statistics"}');
INSERT INTO "events" VALUES(1,14,1795439735696312,'ToolReturned',1,'{"call_id":"call_1","content":"{\"name\": \"model.layers.0.input_layernorm.weight\", \"shape\": [64], \"num_parameters\": 64, \"mean\": 1.0, \"std\": 0.0, \"min\": 1.0, \"max\": 1.0, \"l2_norm\": 8.0}","content_tokens":151,"duration_us":1324,"error":null,"name":"get_weight_statistics","payload_bytes":1494,"payload_sha256":"2c4e5e9baac9b34c35169bc40a28e119737be566f4d1bdc42d667dba413fb19f","payload_tokens":1494,"tensors":[{"dtype":"float32","name":"model.layers.0.input_layernorm.weight","sha256":"2f20cd03c9cd392a406c56232b0ff93a15f6d6d7da79086bfa14f55d4a4031b0","shape":[64]}]}');
INSERT INTO "events" VALUES(1,15,1795439735718938,'MessageAdded',1,'{"content":"Two?","ids":[2,201,1,87,85,71,84,201,54,89,81,33,2,201],"role":"user","text":"<|im_end|>\n<|im_start|>user\nTwo?<|im_end|>\n","tool_call_id":null}');
INSERT INTO "events" VALUES(1,16,1795439735719318,'MessageAdded',1,'{"content":"{\"name\": \"model.layers.0.input_layernorm.weight\", \"shape\": [64], \"num_parameters\": 64, \"mean\": 1.0, \"std\": 0.0, \"min\": 1.0, \"max\": 1.0, \"l2_norm\": 8.0}","ids":[1,86,81,81,78,201,93,4,80,67,79,71,4,28,223,4,79,81,70,71,78,16,78,67,91,71,84,85,16,18,16,75,80,82,87,86,65,78,67,91,71,84,80,81,84,79,16,89,71,75,73,74,86,4,14,223,4,85,74,67,82,71,4,28,223,61,24,22,63,14,223,4,80,87,79,65,82,67,84,67,79,71,86,71,84,85,4,28,223,24,22,14,223,4,79,71,67,80,4,28,223,19,16,18,14,223,4,85,86,70,4,28,223,18,16,18,14,223,4,79,75,80,4,28,223,19,16,18,14,223,4,79,67,90,4,28,223,19,16,18,14,223,4,78,20,65,80,81,84,79,4,28,223,26,16,18,95,2,201],"role":"tool","text":"<|im_start|>tool\n{\"name\": \"model.layers.0.input_layernorm.weight\", \"shape\": [64], \"num_parameters\": 64, \"mean\": 1.0, \"std\": 0.0, \"min\": 1.0, \"max\": 1.0, \"l2_norm\": 8.0}<|im_end|>\n","tool_call_id":"call_1"}');
INSERT INTO "events" VALUES(1,17,1795439735719639,'TurnStarted',1,'{"added_ids":[1,67,85,85,75,85,86,67,80,86,201],"added_text":"<|im_start|>assistant\n","history_reason":"","kept_chars":320,"kept_tokens":220,"prompt_tokens":231,"sampling":{"assistant_confidence_threshold":0.4,"assistant_lookbehind":10,"bos_token_id":1,"diversity_penalty":0.0,"do_sample":true,"early_stopping":false,"encoder_no_repeat_ngram_size":0,"encoder_repetition_penalty":1.0,"eos_token_id":2,"epsilon_cutoff":0.0,"eta_cutoff":0.0,"length_penalty":1.0,"max_new_tokens":6,"no_repeat_ngram_size":0,"num_assistant_tokens":20,"num_assistant_tokens_schedule":"constant","num_beam_groups":1,"num_beams":1,"num_return_sequences":1,"output_attentions":false,"output_hidden_states":false,"output_scores":false,"pad_token_id":0,"remove_invalid_values":false,"repetition_penalty":1.0,"return_dict_in_generate":false,"target_lookbehind":10,"temperature":0.8,"top_k":50,"top_p":0.9,"typical_p":1.0,"use_cache":true},"seed":270372955868768740,"turn":2,"unreplayable":[]}');
INSERT INTO "events" VALUES(1,18,1795439735730368,'CacheDecided',1,'{"cached_tokens":46,"computed_tokens":185,"cropped_tokens":0,"decision":"hit","disk_reason":"","divergence_cached_id":null,"divergence_index":null,"divergence_prompt_id":null,"key_field":null,"prompt_tokens":231,"reason":"extends","reused_tokens":46,"source":"memory","turn":2}');
INSERT INTO "events" VALUES(1,19,1795439735803281,'PrefillCompleted',1,'{"chunks":[185],"duration_us":71721,"kv_bytes":275712,"peak_bytes":473976832,"turn":2}');
INSERT INTO "events" VALUES(1,26,1795439735890652,'TurnFinished',1,'{"duration_us":171511,"generated_tokens":6,"generator_sha256":"c4de6914276015b48d77ce3db74ef9693228521aac4f493b1c20cd74ab8b9ac0","stop_reason":"max_new_tokens","stop_text":"","text":"�I��Pf","turn":2}');
INSERT INTO "events" VALUES(1,27,1795439735892318,'RunFinished',1,'{"computed_tokens":208,"generated_tokens":12,"prompt_tokens":272,"reused_tokens":64,"turns":2}');
INSERT INTO "events" VALUES(2,0,1795439735895760,'RunStarted',1,'{"attention_kernel":"sdpa","behaviour":{"at_context_limit":"refuse","cache_bytes":8589934592,"cache_policy":{"continues":"forward","error":3.871497938234825e-06,"mode":"crop","reason":"GrowingLayer"},"candidates":5,"history":"exact","prefill_chunk_tokens":512,"template_settings":{}},"context_tokens":2048,"device":"cpu","dtype":"float32","environment":{"cpu_capability":"AVX512","cuda":"","gpu":"","machine":"x86_64","platform":"Linux-6.18.44-fc-v595-x86_64-with-glibc2.36","python":"3.11.7","torch":"2.13.0+cpu","transformers":"5.23.0"},"generation_config":{"_from_model_config":true,"bos_token_id":1,"eos_token_id":2,"output_attentions":false,"output_hidden_states":false,"pad_token_id":0,"transformers_version":"5.23.0","use_cache":true},"model":"tiny-llama","name":"cut off","sampler_sha256":"6ece7fe8f1cc1d5cfb765319cae84f7a9aa7f17af42260238900ef990e582f5c","seed":8,"template_sha256":"e229a6b0f0bdab80c1b265f65ff5817d7d4ea341ec25f20eb6ced646726fc384","threads":2,"tokenizer_sha256":"4cbc34607af02db4211e00b1e02328b643a8723aaace6bba9fbdebf0a91ae8ad","weights_sha256":"a8bd4636eb93b2b97ddf88c86f4e5b491a65d67d749291d3c8756e2121b20035"}');
INSERT INTO "events" VALUES(2,1,1795439735914721,'SystemPromptCached',1,'{"chunks":[18],"content":"Be kind.","disk_reason":"","duration_us":12487,"ids":[1,85,91,85,86,71,79,201,36,71,223,77,75,80,70,16,2,201],"kv_bytes":112128,"sha256":"277276a01504c273d853b2be3cfb2d7e015b295625502f1ce7066f1db30a2df6","source":"","text":"<|im_start|>system\nBe kind.<|im_end|>\n"}');
INSERT INTO "events" VALUES(2,2,1795439735927349,'MessageAdded',1,'{"content":"Three?","ids":[1,87,85,71,84,201,54,74,84,71,71,33,2,201],"role":"user","text":"<|im_start|>user\nThree?<|im_end|>\n","tool_call_id":null}');
INSERT INTO "events" VALUES(2,3,1795439735927681,'TurnStarted',1,'{"added_ids":[1,67,85,85,75,85,86,67,80,86,201],"added_text":"<|im_start|>assistant\n","history_reason":"","kept_chars":72,"kept_tokens":32,"prompt_tokens":43,"sampling":{"assistant_confidence_threshold":0.4,"assistant_lookbehind":10,"bos_token_id":1,"diversity_penalty":0.0,"do_sample":false,"early_stopping":false,"encoder_no_repeat_ngram_size":0,"encoder_repetition_penalty":1.0,"eos_token_id":2,"epsilon_cutoff":0.0,"eta_cutoff":0.0,"length_penalty":1.0,"max_new_tokens":6,"no_repeat_ngram_size":0,"num_assistant_tokens":20,"num_assistant_tokens_schedule":"constant","num_beam_groups":1,"num_beams":1,"num_return_sequences":1,"output_attentions":false,"output_hidden_states":false,"output_scores":false,"pad_token_id":0,"remove_invalid_values":false,"repetition_penalty":1.0,"return_dict_in_generate":false,"target_lookbehind":10,"temperature":1.0,"top_k":50,"top_p":1.0,"typical_p":1.0,"use_cache":true},"seed":null,"turn":1,"unreplayable":[]}');
INSERT INTO "events" VALUES(2,4,1795439735934329,'CacheDecided',1,'{"cached_tokens":18,"computed_tokens":25,"cropped_tokens":0,"decision":"hit","disk_reason":"","divergence_cached_id":null,"divergence_index":null,"divergence_prompt_id":null,"key_field":null,"prompt_tokens":43,"reason":"extends","reused_tokens":18,"source":"memory","turn":1}');
INSERT INTO "events" VALUES(2,5,1795439735944609,'PrefillCompleted',1,'{"chunks":[25],"duration_us":8972,"kv_bytes":112128,"peak_bytes":474370048,"turn":1}');
CREATE TABLE runs (
	run_key INTEGER NOT NULL, 
	run_id VARCHAR(36) NOT NULL, 
	name TEXT NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	model TEXT NOT NULL, 
	seed BIGINT, 
	started_at_us BIGINT NOT NULL, 
	updated_at_us BIGINT NOT NULL, 
	turns INTEGER NOT NULL, 
	prompt_tokens BIGINT NOT NULL, 
	reused_tokens BIGINT NOT NULL, 
	generated_tokens BIGINT NOT NULL, 
	PRIMARY KEY (run_key), 
	UNIQUE (run_id)
);
INSERT INTO "runs" VALUES(1,'01a2088c-3177-7022-8ebc-a5a4ec95ee64','schema 0001','finished','tiny-llama',7,1795439735514518,1795439735892318,2,272,64,12);
INSERT INTO "runs" VALUES(2,'01a2088c-3456-7051-bbfd-cabf10f2b3b3','cut off','running','tiny-llama',8,1795439735895760,1795439735934329,0,43,18,0);
CREATE TABLE tokens (
	run_key INTEGER NOT NULL, 
	seq INTEGER NOT NULL, 
	at_us BIGINT NOT NULL, 
	version SMALLINT NOT NULL, 
	turn INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	position INTEGER NOT NULL, 
	token_id INTEGER NOT NULL, 
	logprob DOUBLE NOT NULL, 
	logprob_processed DOUBLE NOT NULL, 
	entropy DOUBLE NOT NULL, 
	top_gap DOUBLE NOT NULL, 
	duration_us BIGINT NOT NULL, 
	top_ids BLOB, 
	top_logprobs BLOB, 
	PRIMARY KEY (run_key, seq), 
	FOREIGN KEY(run_key) REFERENCES runs (run_key)
)
 WITHOUT ROWID

;
INSERT INTO "tokens" VALUES(1,6,1795439735569507,1,1,0,41,126,-1.99281001091003417968e+00,-1.99281001091003417968e+00,4.22015380859375,5.44658660888671875e-01,772,X'7E000000AE000000C10000008D0000007A000000',X'6614FFBFE36522C0B95F39C0CF074FC02B245FC0');
INSERT INTO "tokens" VALUES(1,7,1795439735603186,1,1,1,42,189,-5.81047356128692626953e-01,-5.81047356128692626953e-01,2.24756741523742675781e+00,1.6296062469482421875e+00,32309,X'BD000000EE0000006F0000004A000000ED000000',X'85BF14BF597B0DC057AB2DC0598E73C049A781C0');
INSERT INTO "tokens" VALUES(1,8,1795439735627888,1,1,2,43,43,-1.83717298507690429687e+00,-1.83717298507690429687e+00,3.58731961250305175781e+00,4.26193714141845703125e-01,24303,X'2B000000C0000000BD00000034000000A6000000',X'7C28EBBF00DB10C02C6614C0505F2BC0B4753CC0');
INSERT INTO "tokens" VALUES(1,9,1795439735629946,1,1,3,44,111,-2.2728595733642578125e+00,-2.2728595733642578125e+00,4.03020238876342773437e+00,2.5340557098388671875e-01,1696,X'6F00000064000000770000007800000066000000',X'887611C054AE21C0B00224C0BCDD2CC032B74BC0');
INSERT INTO "tokens" VALUES(1,10,1795439735671522,1,1,4,45,33,-2.45523142814636230468e+00,-2.45523142814636230468e+00,4.16353178024292,1.0343265533447265625e-01,41115,X'21000000BF000000380000009200000045000000',X'83221DC027C123C0C9DF30C0BF0C3DC079553DC0');
INSERT INTO "tokens" VALUES(1,11,1795439735687803,1,1,5,46,142,-1.2531210184097290039e+00,-1.2531210184097290039e+00,3.3780498504638671875e+00,5.603771209716796875e-01,15903,X'8E000000E4000000AF000000990000001F000000',X'4566A0BFB520E8BF92F047C0A6EC5BC050616AC0');
INSERT INTO "tokens" VALUES(1,20,1795439735804592,1,2,0,231,161,-3.62526607513427734375e+00,-3.40087771415710449218e+00,4.03069925308227539062e+00,7.7842807769775390625e-01,858,X'F300000038000000F100000001000000F0000000',X'9136FFBF0C6D31C0D8B934C0802735C03A544BC0');
INSERT INTO "tokens" VALUES(1,21,1795439735811329,1,2,1,232,43,-3.12078332901000976562e+00,-2.91867017745971679687e+00,3.65801692008972167968e+00,9.8644256591796875e-02,6494,X'CC000000690000000D0000002B00000000000000',X'DDA1E1BF3D42EEBF54873EC0EABA47C056254DC0');
INSERT INTO "tokens" VALUES(1,22,1795439735813443,1,2,2,233,243,-5.36202549934387207031e-01,-1.6117954254150390625e-01,2.153530120849609375e+00,1.66077899932861328125e+00,1838,X'F3000000BF000000F70000009000000021000000',X'924409BF589B0CC0003D5EC0884A61C04EA17DC0');
INSERT INTO "tokens" VALUES(1,23,1795439735836253,1,2,3,234,155,-4.50479221343994140625e+00,-4.51774740219116210937e+00,4.00594329833984375e+00,1.8551540374755859375e-01,22573,X'16000000F30000007F00000090000000C4000000',X'7B7F04C0F75E10C05F4924C0DB2C4FC0DB2952C0');
INSERT INTO "tokens" VALUES(1,24,1795439735851740,1,2,4,235,50,-4.33750391006469726562e+00,-4.71548748016357421875e+00,2.84047722816467285156e+00,0.744542121887207,15109,X'01000000C2000000220000007D00000056000000',X'6DDE66BF5EBCD2BF392D75C0696675C0736383C0');
INSERT INTO "tokens" VALUES(1,25,1795439735888757,1,2,5,236,72,-3.37185811996459960937e+00,-3.07151675224304199218e+00,4.08878469467163085937e+00,3.553676605224609375e-02,36489,X'62000000EE000000FB00000038000000E4000000',X'18061BC0544C1DC0084C42C0A0FB46C086554DC0');
INSERT INTO "tokens" VALUES(2,6,1795439735945498,1,1,0,43,174,-1.78227508068084716796e+00,-1.78227508068084716796e+00,3.94565677642822265625e+00,3.489704132080078125e-01,302,X'AE000000C10000008D000000B0000000E0000000',X'9721E4BF546608C01C474AC08CFF52C08E295BC0');
INSERT INTO "tokens" VALUES(2,7,1795439735956149,1,1,1,44,145,-2.16120028495788574218e+00,-2.16120028495788574218e+00,4.13596057891845703125e+00,2.52926349639892578125e-01,10369,X'91000000550000007E000000EC000000FF000000',X'1B510AC00D811AC019671FC0A9E84FC0396457C0');
INSERT INTO "tokens" VALUES(2,8,1795439735971203,1,1,2,45,94,-9.06596124172210693359e-01,-9.06596124172210693359e-01,2.91699814796447753906e+00,1.0698299407958984375e+00,14705,X'5E00000019000000BB000000FF000000A7000000',X'AF1668BF88FBFCBFBE4552C0A4A157C0C0CB67C0');
CREATE TRIGGER events_refuse_delete BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events is append-only'); END;
CREATE TRIGGER tokens_refuse_delete BEFORE DELETE ON tokens BEGIN SELECT RAISE(ABORT, 'tokens is append-only'); END;
CREATE TRIGGER blobs_refuse_delete BEFORE DELETE ON blobs BEGIN SELECT RAISE(ABORT, 'blobs is append-only'); END;
CREATE TRIGGER events_refuse_update BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events is append-only'); END;
CREATE TRIGGER tokens_refuse_update BEFORE UPDATE ON tokens BEGIN SELECT RAISE(ABORT, 'tokens is append-only'); END;
CREATE TRIGGER blobs_refuse_update BEFORE UPDATE ON blobs BEGIN SELECT RAISE(ABORT, 'blobs is append-only'); END;
COMMIT;
