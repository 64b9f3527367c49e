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
)
 WITHOUT ROWID

;
INSERT INTO "blobs" VALUES('6eea669bf3561ac9bf504b7683d5222675181e4c356a1d15f9b857c2ed30c5b1',X'7061796C6F61642031');
INSERT INTO "blobs" VALUES('93e36de797564e8a5b21bdd05c56afd643e3ea019a73d42bd77ebea27c331e47',X'7061796C6F61642034');
INSERT INTO "blobs" VALUES('a837b2378542e78a8344462f425a37a6c555f03d843a911d9200d2ab2a597dd5',X'7061796C6F61642033');
INSERT INTO "blobs" VALUES('d2a81b0b3d1ea58bbafcd5e3e10e6ec1ac4c0f7e901ecc7cffdcd5a30a1f416a',X'7061796C6F61642032');
CREATE TABLE events (
	event_key INTEGER NOT NULL, 
	after_us BIGINT NOT NULL, 
	turn INTEGER, 
	kind VARCHAR(40) NOT NULL, 
	version SMALLINT NOT NULL, 
	body TEXT NOT NULL, 
	seal VARCHAR(80), 
	PRIMARY KEY (event_key)
);
INSERT INTO "events" VALUES(268435456,0,NULL,'RunStarted',1,'{"attention_kernel":"sdpa","cache_policy":{},"context_tokens":null,"device":"cpu","dtype":"float32","environment":{},"generation_config":{"top_p":0.9},"model":"m","name":"by\nhand é","redacted":false,"sampler_sha256":"s","seed":1,"settings":{},"template_sha256":"","threads":1,"tokenizer_sha256":"t","tools":[],"weights_listed":false,"weights_sha256":"w"}',NULL);
INSERT INTO "events" VALUES(268435457,1500,1,'TurnStarted',1,'{"added_ids":[1,2,3],"added_text":"abc","first_step":0,"history_reason":"","kept_chars":0,"kept_tokens":0,"prompt_tokens":3,"sampling":{"do_sample":true,"temperature":0.7},"seed":1,"turn":1,"unreplayable":[]}',NULL);
INSERT INTO "events" VALUES(268435458,3000,1,'CacheDecided',1,'{"cached_tokens":0,"computed_tokens":3,"cropped_tokens":0,"decision":"miss","disk_reason":"","divergence_cached_id":null,"divergence_index":null,"divergence_prompt_id":null,"key_field":null,"prompt_tokens":3,"reason":"empty","reused_tokens":0,"source":"","turn":1}',NULL);
INSERT INTO "events" VALUES(268435463,10500,1,'TurnFinished',1,'{"duration_us":2500,"generated_tokens":4,"generator_sha256":"","stop_reason":"eos","stop_text":"","text":"so","turn":1}','blake2b-256:ff4af1f6298285a17769b77d32efdeac799c973d9e2c6d2526dcc81838ab9c19');
INSERT INTO "events" VALUES(268435464,12000,2,'ToolCalled',1,'{"arguments":{"at":[2,null]},"call_id":"c2","caller":"experimenter","name":"look","step":null,"text":"","turn":null}',NULL);
INSERT INTO "events" VALUES(268435465,13500,2,'ToolReturned',1,'{"call_id":"c2","content":"seen   \"é\" 😀","content_tokens":3,"duration_us":1250,"error":null,"name":"look","payload_bytes":9,"payload_sha256":"d2a81b0b3d1ea58bbafcd5e3e10e6ec1ac4c0f7e901ecc7cffdcd5a30a1f416a","payload_tokens":5,"tensors":[{"name":"w","shape":[2,3]}],"turn":null}',NULL);
INSERT INTO "events" VALUES(268435466,15000,2,'TurnStarted',1,'{"added_ids":[1,2,3],"added_text":"abc","first_step":0,"history_reason":"","kept_chars":0,"kept_tokens":0,"prompt_tokens":3,"sampling":{"do_sample":true,"temperature":0.7},"seed":2,"turn":2,"unreplayable":[]}',NULL);
INSERT INTO "events" VALUES(268435467,16500,2,'CacheDecided',1,'{"cached_tokens":0,"computed_tokens":3,"cropped_tokens":0,"decision":"miss","disk_reason":"","divergence_cached_id":null,"divergence_index":null,"divergence_prompt_id":null,"key_field":null,"prompt_tokens":3,"reason":"empty","reused_tokens":0,"source":"","turn":2}',NULL);
INSERT INTO "events" VALUES(268435472,24000,2,'TurnFinished',1,'{"duration_us":2500,"generated_tokens":4,"generator_sha256":"","stop_reason":"eos","stop_text":"","text":"so","turn":2}','blake2b-256:4b19786649efbec11fdcc551756b196af2cb2355c59eeadcf666d012ba38fd4b');
INSERT INTO "events" VALUES(268435473,25500,3,'TurnStarted',1,'{"added_ids":[1,2,3],"added_text":"abc","first_step":0,"history_reason":"","kept_chars":0,"kept_tokens":0,"prompt_tokens":3,"sampling":{"do_sample":true,"temperature":0.7},"seed":3,"turn":3,"unreplayable":[]}',NULL);
INSERT INTO "events" VALUES(268435474,27000,3,'CacheDecided',1,'{"cached_tokens":0,"computed_tokens":3,"cropped_tokens":0,"decision":"miss","disk_reason":"","divergence_cached_id":null,"divergence_index":null,"divergence_prompt_id":null,"key_field":null,"prompt_tokens":3,"reason":"empty","reused_tokens":0,"source":"","turn":3}',NULL);
INSERT INTO "events" VALUES(268435479,34500,3,'TurnFinished',1,'{"duration_us":2500,"generated_tokens":4,"generator_sha256":"","stop_reason":"eos","stop_text":"","text":"so","turn":3}','blake2b-256:9b649a5ab30c25a7f5047c0c90eb308254f807af4263e805ebf5d0fc2b2d0848');
INSERT INTO "events" VALUES(268435480,36000,4,'ToolCalled',1,'{"arguments":{"at":[4,null]},"call_id":"c4","caller":"experimenter","name":"look","step":null,"text":"","turn":null}',NULL);
INSERT INTO "events" VALUES(268435481,37500,4,'ToolReturned',1,'{"call_id":"c4","content":"seen   \"é\" 😀","content_tokens":3,"duration_us":1250,"error":null,"name":"look","payload_bytes":9,"payload_sha256":"93e36de797564e8a5b21bdd05c56afd643e3ea019a73d42bd77ebea27c331e47","payload_tokens":5,"tensors":[{"name":"w","shape":[2,3]}],"turn":null}',NULL);
INSERT INTO "events" VALUES(268435482,39000,4,'TurnStarted',1,'{"added_ids":[1,2,3],"added_text":"abc","first_step":0,"history_reason":"","kept_chars":0,"kept_tokens":0,"prompt_tokens":3,"sampling":{"do_sample":true,"temperature":0.7},"seed":4,"turn":4,"unreplayable":[]}',NULL);
INSERT INTO "events" VALUES(268435483,40500,4,'CacheDecided',1,'{"cached_tokens":0,"computed_tokens":3,"cropped_tokens":0,"decision":"miss","disk_reason":"","divergence_cached_id":null,"divergence_index":null,"divergence_prompt_id":null,"key_field":null,"prompt_tokens":3,"reason":"empty","reused_tokens":0,"source":"","turn":4}',NULL);
INSERT INTO "events" VALUES(268435488,48000,4,'TurnFinished',1,'{"duration_us":2500,"generated_tokens":4,"generator_sha256":"","stop_reason":"eos","stop_text":"","text":"so","turn":4}','blake2b-256:5068e2539a5d5da6f8f0d8c8ff5c20f6a62788a5dc4a82bdebdda93c0713cbce');
INSERT INTO "events" VALUES(268435489,49500,NULL,'RunFinished',1,'{"computed_tokens":12,"generated_tokens":16,"prompt_tokens":12,"reason":"","reused_tokens":0,"turns":4}','blake2b-256:28bdde56bd4666628d2ec6b8bd1cdffb12e382e246f5cb34f9512ae4237a9795');
INSERT INTO "events" VALUES(536870912,0,NULL,'RunStarted',1,'{"attention_kernel":"sdpa","cache_policy":{},"context_tokens":null,"device":"cpu","dtype":"float32","environment":{},"generation_config":{"top_p":0.9},"model":"m","name":"by\nhand é","redacted":false,"sampler_sha256":"s","seed":1,"settings":{},"template_sha256":"","threads":1,"tokenizer_sha256":"t","tools":[],"weights_listed":false,"weights_sha256":"w"}',NULL);
INSERT INTO "events" VALUES(536870913,1500,1,'ToolCalled',1,'{"arguments":{"at":[1,null]},"call_id":"c1","caller":"experimenter","name":"look","step":null,"text":"","turn":null}',NULL);
INSERT INTO "events" VALUES(536870914,3000,1,'ToolReturned',1,'{"call_id":"c1","content":"seen   \"é\" 😀","content_tokens":3,"duration_us":1250,"error":null,"name":"look","payload_bytes":9,"payload_sha256":"6eea669bf3561ac9bf504b7683d5222675181e4c356a1d15f9b857c2ed30c5b1","payload_tokens":5,"tensors":[{"name":"w","shape":[2,3]}],"turn":null}',NULL);
INSERT INTO "events" VALUES(536870915,4500,1,'TurnStarted',1,'{"added_ids":[1,2,3],"added_text":"abc","first_step":0,"history_reason":"","kept_chars":0,"kept_tokens":0,"prompt_tokens":3,"sampling":{"do_sample":true,"temperature":0.7},"seed":1,"turn":1,"unreplayable":[]}',NULL);
INSERT INTO "events" VALUES(536870916,6000,1,'CacheDecided',1,'{"cached_tokens":0,"computed_tokens":3,"cropped_tokens":0,"decision":"miss","disk_reason":"","divergence_cached_id":null,"divergence_index":null,"divergence_prompt_id":null,"key_field":null,"prompt_tokens":3,"reason":"empty","reused_tokens":0,"source":"","turn":1}',NULL);
INSERT INTO "events" VALUES(536870919,10500,1,'TurnFinished',1,'{"duration_us":2500,"generated_tokens":2,"generator_sha256":"","stop_reason":"eos","stop_text":"","text":"so","turn":1}','blake2b-256:60e556a041779e2510e5f781eac09e1a6b233edf87b3698280c7a66c96754c2c');
INSERT INTO "events" VALUES(536870920,12000,2,'ToolCalled',1,'{"arguments":{"at":[2,null]},"call_id":"c2","caller":"experimenter","name":"look","step":null,"text":"","turn":null}',NULL);
INSERT INTO "events" VALUES(536870921,13500,2,'ToolReturned',1,'{"call_id":"c2","content":"seen   \"é\" 😀","content_tokens":3,"duration_us":1250,"error":null,"name":"look","payload_bytes":9,"payload_sha256":"d2a81b0b3d1ea58bbafcd5e3e10e6ec1ac4c0f7e901ecc7cffdcd5a30a1f416a","payload_tokens":5,"tensors":[{"name":"w","shape":[2,3]}],"turn":null}',NULL);
INSERT INTO "events" VALUES(536870922,15000,2,'TurnStarted',1,'{"added_ids":[1,2,3],"added_text":"abc","first_step":0,"history_reason":"","kept_chars":0,"kept_tokens":0,"prompt_tokens":3,"sampling":{"do_sample":true,"temperature":0.7},"seed":2,"turn":2,"unreplayable":[]}',NULL);
INSERT INTO "events" VALUES(536870923,16500,2,'CacheDecided',1,'{"cached_tokens":0,"computed_tokens":3,"cropped_tokens":0,"decision":"miss","disk_reason":"","divergence_cached_id":null,"divergence_index":null,"divergence_prompt_id":null,"key_field":null,"prompt_tokens":3,"reason":"empty","reused_tokens":0,"source":"","turn":2}',NULL);
INSERT INTO "events" VALUES(536870926,21000,2,'TurnFinished',1,'{"duration_us":2500,"generated_tokens":2,"generator_sha256":"","stop_reason":"eos","stop_text":"","text":"so","turn":2}','blake2b-256:3222c5b9980f26b4d874b17d99f39f0f7188ddc6633163f729973503af438276');
INSERT INTO "events" VALUES(536870927,22500,NULL,'RunFinished',1,'{"computed_tokens":6,"generated_tokens":4,"prompt_tokens":6,"reason":"","reused_tokens":0,"turns":2}','blake2b-256:3cbe27fde2719890dc2e678d9d9a97001a330610e8d4dee768a0de25847f9514');
INSERT INTO "events" VALUES(536870928,24000,NULL,'RunResumed',1,'{"device":"cpu","environment":{},"sampler_sha256":"s","step":null,"threads":1,"turn":null,"weights_sha256":"w"}',NULL);
INSERT INTO "events" VALUES(536870929,25500,3,'ToolCalled',1,'{"arguments":{"at":[3,null]},"call_id":"c3","caller":"experimenter","name":"look","step":null,"text":"","turn":null}',NULL);
INSERT INTO "events" VALUES(536870930,27000,3,'ToolReturned',1,'{"call_id":"c3","content":"seen   \"é\" 😀","content_tokens":3,"duration_us":1250,"error":null,"name":"look","payload_bytes":9,"payload_sha256":"a837b2378542e78a8344462f425a37a6c555f03d843a911d9200d2ab2a597dd5","payload_tokens":5,"tensors":[{"name":"w","shape":[2,3]}],"turn":null}',NULL);
INSERT INTO "events" VALUES(536870931,28500,3,'TurnStarted',1,'{"added_ids":[1,2,3],"added_text":"abc","first_step":0,"history_reason":"","kept_chars":0,"kept_tokens":0,"prompt_tokens":3,"sampling":{"do_sample":true,"temperature":0.7},"seed":3,"turn":3,"unreplayable":[]}',NULL);
INSERT INTO "events" VALUES(536870932,30000,3,'CacheDecided',1,'{"cached_tokens":0,"computed_tokens":3,"cropped_tokens":0,"decision":"miss","disk_reason":"","divergence_cached_id":null,"divergence_index":null,"divergence_prompt_id":null,"key_field":null,"prompt_tokens":3,"reason":"empty","reused_tokens":0,"source":"","turn":3}',NULL);
INSERT INTO "events" VALUES(536870935,34500,3,'TurnFinished',1,'{"duration_us":2500,"generated_tokens":2,"generator_sha256":"","stop_reason":"eos","stop_text":"","text":"so","turn":3}','blake2b-256:c08e63d313a1174a19ad8e91340dbac1dd603ce2b95da54f416ff652cc999759');
INSERT INTO "events" VALUES(536870936,36000,NULL,'RunFinished',1,'{"computed_tokens":9,"generated_tokens":6,"prompt_tokens":9,"reason":"","reused_tokens":0,"turns":3}','blake2b-256:4733c90a14fe844139ce6ba56026edc395434050d9944ef2fbd1c4c3315281fb');
INSERT INTO "events" VALUES(805306368,0,NULL,'RunStarted',1,'{"attention_kernel":"sdpa","cache_policy":{},"context_tokens":null,"device":"cpu","dtype":"float32","environment":{},"generation_config":{"top_p":0.9},"model":"m","name":"by\nhand é","redacted":false,"sampler_sha256":"s","seed":1,"settings":{},"template_sha256":"","threads":1,"tokenizer_sha256":"t","tools":[],"weights_listed":false,"weights_sha256":"w"}',NULL);
INSERT INTO "events" VALUES(805306369,1500,NULL,'RunForked',1,'{"at_turn":2,"changes":{},"parent_hash":"blake2b-256:79e814cb7c04fcd9daa539d9365b81b6be5431752bf82217a2e8137ebf9205a5","parent_run_id":"01a3185c-5034-719e-848b-46000b032b2b","parent_seq":7}',NULL);
INSERT INTO "events" VALUES(805306370,3000,2,'TurnStarted',1,'{"added_ids":[1,2,3],"added_text":"abc","first_step":0,"history_reason":"","kept_chars":0,"kept_tokens":0,"prompt_tokens":3,"sampling":{"do_sample":true,"temperature":0.7},"seed":2,"turn":2,"unreplayable":[]}',NULL);
INSERT INTO "events" VALUES(805306371,4500,2,'CacheDecided',1,'{"cached_tokens":0,"computed_tokens":3,"cropped_tokens":0,"decision":"miss","disk_reason":"","divergence_cached_id":null,"divergence_index":null,"divergence_prompt_id":null,"key_field":null,"prompt_tokens":3,"reason":"empty","reused_tokens":0,"source":"","turn":2}',NULL);
INSERT INTO "events" VALUES(805306375,10500,2,'TurnFinished',1,'{"duration_us":2500,"generated_tokens":3,"generator_sha256":"","stop_reason":"eos","stop_text":"","text":"so","turn":2}','blake2b-256:ba6c77a178e17e3887f275eef0b5bc4c1919dbacef9773bafeccc3dbd844c8d0');
INSERT INTO "events" VALUES(805306376,12000,NULL,'RunFinished',1,'{"computed_tokens":3,"generated_tokens":3,"prompt_tokens":3,"reason":"","reused_tokens":0,"turns":1}','blake2b-256:e9ef392548b0df31dd37a182843699745c68c8eb48ecf0a34e35a369275923c4');
INSERT INTO "events" VALUES(1073741824,0,NULL,'RunStarted',1,'{"attention_kernel":"sdpa","cache_policy":{},"context_tokens":null,"device":"cpu","dtype":"float32","environment":{},"generation_config":{"top_p":0.9},"model":"m","name":"by\nhand é","redacted":false,"sampler_sha256":"s","seed":1,"settings":{},"template_sha256":"","threads":1,"tokenizer_sha256":"t","tools":[],"weights_listed":false,"weights_sha256":"w"}',NULL);
INSERT INTO "events" VALUES(1073741825,1500,1,'TurnStarted',1,'{"added_ids":[1,2,3],"added_text":"abc","first_step":0,"history_reason":"","kept_chars":0,"kept_tokens":0,"prompt_tokens":3,"sampling":{"do_sample":true,"temperature":0.7},"seed":1,"turn":1,"unreplayable":[]}',NULL);
INSERT INTO "events" VALUES(1073741826,3000,1,'CacheDecided',1,'{"cached_tokens":0,"computed_tokens":3,"cropped_tokens":0,"decision":"miss","disk_reason":"","divergence_cached_id":null,"divergence_index":null,"divergence_prompt_id":null,"key_field":null,"prompt_tokens":3,"reason":"empty","reused_tokens":0,"source":"","turn":1}',NULL);
INSERT INTO "events" VALUES(1073741829,7500,1,'TurnFinished',1,'{"duration_us":2500,"generated_tokens":2,"generator_sha256":"","stop_reason":"eos","stop_text":"","text":"so","turn":1}','blake2b-256:9b5d1f19fa109c3b56f4d27de108206a98d63d91510d2cee50941554d23bf258');
INSERT INTO "events" VALUES(1342177280,0,NULL,'RunStarted',1,'{"attention_kernel":"sdpa","cache_policy":{},"context_tokens":null,"device":"cpu","dtype":"float32","environment":{},"generation_config":{"top_p":0.9},"model":"m","name":"by\nhand é","redacted":false,"sampler_sha256":"s","seed":1,"settings":{},"template_sha256":"","threads":1,"tokenizer_sha256":"t","tools":[],"weights_listed":false,"weights_sha256":"w"}',NULL);
INSERT INTO "events" VALUES(1342177281,1500,1,'TurnStarted',1,'{"added_ids":[1,2,3],"added_text":"abc","first_step":0,"history_reason":"","kept_chars":0,"kept_tokens":0,"prompt_tokens":3,"sampling":{"do_sample":true,"temperature":0.7},"seed":1,"turn":1,"unreplayable":[]}',NULL);
INSERT INTO "events" VALUES(1342177282,3000,1,'CacheDecided',1,'{"cached_tokens":0,"computed_tokens":3,"cropped_tokens":0,"decision":"miss","disk_reason":"","divergence_cached_id":null,"divergence_index":null,"divergence_prompt_id":null,"key_field":null,"prompt_tokens":3,"reason":"empty","reused_tokens":0,"source":"","turn":1}',NULL);
INSERT INTO "events" VALUES(1342177285,7500,1,'TurnFinished',1,'{"duration_us":2500,"generated_tokens":2,"generator_sha256":"","stop_reason":"eos","stop_text":"","text":"so","turn":1}','blake2b-256:d58dcad93f5a0ea160e9180f297c22efcf1f7dc977ec912117348a337215b8cf');
INSERT INTO "events" VALUES(1342177286,9000,NULL,'RunFailed',1,'{"error":"RuntimeError","message":"enough","traceback":"RuntimeError: enough\n"}','blake2b-256:de2f22a1ccfe589a23020466bda99517c6cb67a922ad9729214eb3963b7affb2');
CREATE TABLE floors (
	run_key INTEGER NOT NULL, 
	at_us BIGINT NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	version VARCHAR(80) NOT NULL, 
	floor BLOB NOT NULL, 
	PRIMARY KEY (run_key, at_us, sha256)
);
INSERT INTO "floors" VALUES(1,1000000000000000,'bce35299b045237a6b6af2a6425428cb59eb9ec1c28fa606d51ad5377f9c503b','mine',X'789CAB56CA4D2C4ACFCC8B4F2D2856B232D0333030AC05004ADF068B');
CREATE TABLE runs (
	run_key INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
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
	parent_run_id VARCHAR(36), 
	forked_at_turn INTEGER, 
	UNIQUE (run_id)
);
INSERT INTO "runs" VALUES(1,'01a3185c-5000-7801-b42d-68f53c5040fd','by
hand é','finished','m',1,1800000000001500,1800000000051000,4,12,0,16,NULL,NULL);
INSERT INTO "runs" VALUES(2,'01a3185c-5034-719e-848b-46000b032b2b','by
hand é','finished','m',1,1800000000054000,1800000000090000,3,9,0,6,NULL,NULL);
INSERT INTO "runs" VALUES(3,'01a3185c-505b-781d-97c8-b627fea2c006','by
hand é','finished','m',1,1800000000093000,1800000000105000,1,3,0,3,'01a3185c-5034-719e-848b-46000b032b2b',2);
INSERT INTO "runs" VALUES(4,'01a3185c-506a-7108-9d69-cf2d6adf40d4','by
hand é','running','m',1,1800000000108000,1800000000115500,1,3,0,2,NULL,NULL);
INSERT INTO "runs" VALUES(5,'01a3185c-5075-71d2-b2f2-24b82588ec5e','by
hand é','failed','m',1,1800000000118500,1800000000127500,1,3,0,2,NULL,NULL);
CREATE TABLE tokens (
	event_key INTEGER NOT NULL, 
	after_us BIGINT NOT NULL, 
	version SMALLINT NOT NULL, 
	turn INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	position INTEGER NOT NULL, 
	token_id INTEGER NOT NULL, 
	logprob_f32 INTEGER NOT NULL, 
	logprob_processed_f32 INTEGER NOT NULL, 
	entropy_f16 SMALLINT NOT NULL, 
	top_gap_f16 SMALLINT NOT NULL, 
	duration_us BIGINT NOT NULL, 
	top_ids BLOB, 
	top_logprobs_f16 BLOB, 
	PRIMARY KEY (event_key)
);
INSERT INTO "tokens" VALUES(268435459,4500,1,1,0,3,0,-1110651699,-1077936128,13653,16640,0,X'00',X'0080');
INSERT INTO "tokens" VALUES(268435460,6000,1,1,1,4,7,-1110651699,-1077936128,13653,16640,100,X'00',X'0080');
INSERT INTO "tokens" VALUES(268435461,7500,1,1,2,5,14,-1110651699,-1077936128,13653,16640,200,X'00',X'0080');
INSERT INTO "tokens" VALUES(268435462,9000,1,1,3,6,21,-1110651699,-1077936128,13653,16640,300,X'00',X'0080');
INSERT INTO "tokens" VALUES(268435468,18000,1,2,0,3,0,-1110651699,-1077936128,13653,16640,0,X'0001',X'008000B8');
INSERT INTO "tokens" VALUES(268435469,19500,1,2,1,4,7,-1110651699,-1077936128,13653,16640,100,X'0001',X'008000B8');
INSERT INTO "tokens" VALUES(268435470,21000,1,2,2,5,14,-1110651699,-1077936128,13653,16640,200,X'0001',X'008000B8');
INSERT INTO "tokens" VALUES(268435471,22500,1,2,3,6,21,-1110651699,-1077936128,13653,16640,300,X'0001',X'008000B8');
INSERT INTO "tokens" VALUES(268435475,28500,1,3,0,3,0,-1110651699,-1077936128,13653,16640,0,NULL,NULL);
INSERT INTO "tokens" VALUES(268435476,30000,1,3,1,4,7,-1110651699,-1077936128,13653,16640,100,NULL,NULL);
INSERT INTO "tokens" VALUES(268435477,31500,1,3,2,5,14,-1110651699,-1077936128,13653,16640,200,NULL,NULL);
INSERT INTO "tokens" VALUES(268435478,33000,1,3,3,6,21,-1110651699,-1077936128,13653,16640,300,NULL,NULL);
INSERT INTO "tokens" VALUES(268435484,42000,1,4,0,3,0,-1110651699,-1077936128,13653,16640,0,X'00',X'0080');
INSERT INTO "tokens" VALUES(268435485,43500,1,4,1,4,7,-1110651699,-1077936128,13653,16640,100,X'00',X'0080');
INSERT INTO "tokens" VALUES(268435486,45000,1,4,2,5,14,-1110651699,-1077936128,13653,16640,200,X'00',X'0080');
INSERT INTO "tokens" VALUES(268435487,46500,1,4,3,6,21,-1110651699,-1077936128,13653,16640,300,X'00',X'0080');
INSERT INTO "tokens" VALUES(536870917,7500,1,1,0,3,0,-1110651699,-1077936128,13653,16640,0,X'00',X'0080');
INSERT INTO "tokens" VALUES(536870918,9000,1,1,1,4,7,-1110651699,-1077936128,13653,16640,100,X'00',X'0080');
INSERT INTO "tokens" VALUES(536870924,18000,1,2,0,3,0,-1110651699,-1077936128,13653,16640,0,X'0001',X'008000B8');
INSERT INTO "tokens" VALUES(536870925,19500,1,2,1,4,7,-1110651699,-1077936128,13653,16640,100,X'0001',X'008000B8');
INSERT INTO "tokens" VALUES(536870933,31500,1,3,0,3,0,-1110651699,-1077936128,13653,16640,0,NULL,NULL);
INSERT INTO "tokens" VALUES(536870934,33000,1,3,1,4,7,-1110651699,-1077936128,13653,16640,100,NULL,NULL);
INSERT INTO "tokens" VALUES(805306372,6000,1,2,0,3,0,-1110651699,-1077936128,13653,16640,0,X'0001',X'008000B8');
INSERT INTO "tokens" VALUES(805306373,7500,1,2,1,4,7,-1110651699,-1077936128,13653,16640,100,X'0001',X'008000B8');
INSERT INTO "tokens" VALUES(805306374,9000,1,2,2,5,14,-1110651699,-1077936128,13653,16640,200,X'0001',X'008000B8');
INSERT INTO "tokens" VALUES(1073741827,4500,1,1,0,3,0,-1110651699,-1077936128,13653,16640,0,X'00',X'0080');
INSERT INTO "tokens" VALUES(1073741828,6000,1,1,1,4,7,-1110651699,-1077936128,13653,16640,100,X'00',X'0080');
INSERT INTO "tokens" VALUES(1342177283,4500,1,1,0,3,0,-1110651699,-1077936128,13653,16640,0,X'00',X'0080');
INSERT INTO "tokens" VALUES(1342177284,6000,1,1,1,4,7,-1110651699,-1077936128,13653,16640,100,X'00',X'0080');
CREATE TABLE tombstones (
	run_id VARCHAR(36) NOT NULL, 
	erased_at_us BIGINT NOT NULL, 
	reason TEXT NOT NULL, 
	events BIGINT NOT NULL, 
	last_seal VARCHAR(80), 
	PRIMARY KEY (run_id)
)
 WITHOUT ROWID

;
INSERT INTO "tombstones" VALUES('01a3185c-5081-764c-b4f2-589a24628f02',1000000000000000,'to keep a tombstone',9,'blake2b-256:a5b1c60b48c1a025d444f9bcee2f07c14d5a4ae3ac02f976d2b74e004948d24a');
CREATE TABLE verdicts (
	run_key INTEGER NOT NULL, 
	at_us BIGINT NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	replay VARCHAR(80) NOT NULL, 
	verdict VARCHAR(80) NOT NULL, 
	reason TEXT, 
	model TEXT, 
	floor_version TEXT, 
	turns INTEGER, 
	tokens BIGINT, 
	mismatches BIGINT, 
	near_ties BIGINT, 
	logprob_difference_max DOUBLE, 
	margin_max DOUBLE, 
	duration_us BIGINT, 
	report BLOB NOT NULL, 
	PRIMARY KEY (run_key, at_us, sha256)
);
INSERT INTO "verdicts" VALUES(1,1000000000000000,'5dbc0f4b33a90777245efd50679736bdcf103bdb319cc57dbeadcf506bcd8f64','verify','verified','all is well',NULL,NULL,0,0,0,0,NULL,NULL,NULL,X'789CAB562A4A4D2CCECF53B2524ACCC951C82C56284FCDC951D2512A292DCA2B56B28A8EAD0500D6910BEA');
CREATE TRIGGER events_refuse_update BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events is append-only'); END;
CREATE TRIGGER events_refuse_delete BEFORE DELETE ON events WHEN NOT EXISTS (SELECT 1 FROM tombstones JOIN runs ON runs.run_id = tombstones.run_id WHERE runs.run_key = (OLD.event_key >> 28)) BEGIN SELECT RAISE(ABORT, 'events is append-only'); END;
CREATE TRIGGER events_refuse_gap BEFORE INSERT ON events WHEN EXISTS (SELECT 1 FROM tokens WHERE event_key = NEW.event_key) OR CASE WHEN (NEW.event_key & 268435455) = 0 THEN NOT EXISTS (SELECT 1 FROM runs WHERE run_key = (NEW.event_key >> 28)) ELSE NOT EXISTS (SELECT 1 FROM tokens WHERE event_key = NEW.event_key - 1) AND NOT EXISTS (SELECT 1 FROM events WHERE event_key = NEW.event_key - 1) END BEGIN SELECT RAISE(ABORT, 'not the next event of its run'); END;
CREATE TRIGGER tokens_refuse_update BEFORE UPDATE ON tokens BEGIN SELECT RAISE(ABORT, 'tokens is append-only'); END;
CREATE TRIGGER tokens_refuse_delete BEFORE DELETE ON tokens WHEN NOT EXISTS (SELECT 1 FROM tombstones JOIN runs ON runs.run_id = tombstones.run_id WHERE runs.run_key = (OLD.event_key >> 28)) BEGIN SELECT RAISE(ABORT, 'tokens is append-only'); END;
CREATE TRIGGER tokens_refuse_gap BEFORE INSERT ON tokens WHEN EXISTS (SELECT 1 FROM events WHERE event_key = NEW.event_key) OR CASE WHEN (NEW.event_key & 268435455) = 0 THEN NOT EXISTS (SELECT 1 FROM runs WHERE run_key = (NEW.event_key >> 28)) ELSE NOT EXISTS (SELECT 1 FROM tokens WHERE event_key = NEW.event_key - 1) AND NOT EXISTS (SELECT 1 FROM events WHERE event_key = NEW.event_key - 1) END BEGIN SELECT RAISE(ABORT, 'not the next event of its run'); END;
CREATE TRIGGER verdicts_refuse_update BEFORE UPDATE ON verdicts BEGIN SELECT RAISE(ABORT, 'verdicts is append-only'); END;
CREATE TRIGGER verdicts_refuse_delete BEFORE DELETE ON verdicts WHEN NOT EXISTS (SELECT 1 FROM tombstones JOIN runs ON runs.run_id = tombstones.run_id WHERE runs.run_key = OLD.run_key) BEGIN SELECT RAISE(ABORT, 'verdicts is append-only'); END;
CREATE TRIGGER verdicts_refuse_orphan BEFORE INSERT ON verdicts WHEN NOT EXISTS (SELECT 1 FROM runs WHERE runs.run_key = NEW.run_key) BEGIN SELECT RAISE(ABORT, 'there is no such run'); END;
CREATE TRIGGER floors_refuse_update BEFORE UPDATE ON floors BEGIN SELECT RAISE(ABORT, 'floors is append-only'); END;
CREATE TRIGGER floors_refuse_delete BEFORE DELETE ON floors WHEN NOT EXISTS (SELECT 1 FROM tombstones JOIN runs ON runs.run_id = tombstones.run_id WHERE runs.run_key = OLD.run_key) BEGIN SELECT RAISE(ABORT, 'floors is append-only'); END;
CREATE TRIGGER floors_refuse_orphan BEFORE INSERT ON floors WHEN NOT EXISTS (SELECT 1 FROM runs WHERE runs.run_key = NEW.run_key) BEGIN SELECT RAISE(ABORT, 'there is no such run'); END;
CREATE TRIGGER blobs_refuse_update BEFORE UPDATE ON blobs BEGIN SELECT RAISE(ABORT, 'blobs is append-only'); END;
CREATE TRIGGER blobs_refuse_delete BEFORE DELETE ON blobs WHEN EXISTS (SELECT 1 FROM events WHERE kind IN ('RunStarted', 'ToolReturned', 'InterventionRequested', 'InterventionApplied') AND instr(body, OLD.sha256) > 0) BEGIN SELECT RAISE(ABORT, 'blobs is append-only'); END;
CREATE TRIGGER runs_refuse_delete BEFORE DELETE ON runs WHEN NOT EXISTS (SELECT 1 FROM tombstones WHERE run_id = OLD.run_id) BEGIN SELECT RAISE(ABORT, 'a run is erased, not deleted'); END;
CREATE TRIGGER runs_refuse_move BEFORE UPDATE ON runs WHEN NEW.run_key <> OLD.run_key OR NEW.run_id <> OLD.run_id OR NEW.started_at_us <> OLD.started_at_us BEGIN SELECT RAISE(ABORT, 'a run keeps its id and its start'); END;
CREATE TRIGGER tombstones_refuse_update BEFORE UPDATE ON tombstones BEGIN SELECT RAISE(ABORT, 'tombstones is append-only'); END;
CREATE TRIGGER tombstones_refuse_delete BEFORE DELETE ON tombstones BEGIN SELECT RAISE(ABORT, 'tombstones is append-only'); END;
CREATE VIEW runs_df AS SELECT run_id, name, status, model, seed, turns, prompt_tokens, reused_tokens, generated_tokens, strftime('%Y-%m-%dT%H:%M:%S', (started_at_us) / 1000000, 'unixepoch') || printf('.%06dZ', (started_at_us) % 1000000) AS started_at, strftime('%Y-%m-%dT%H:%M:%S', (updated_at_us) / 1000000, 'unixepoch') || printf('.%06dZ', (updated_at_us) % 1000000) AS updated_at, parent_run_id, forked_at_turn FROM runs;
CREATE VIEW events_df AS SELECT run_id, events.event_key & 268435455 AS seq, strftime('%Y-%m-%dT%H:%M:%S', (runs.started_at_us + events.after_us) / 1000000, 'unixepoch') || printf('.%06dZ', (runs.started_at_us + events.after_us) % 1000000) AS at, events.turn, kind AS kind, version, seal AS seal FROM runs JOIN events ON events.event_key BETWEEN (runs.run_key << 28) AND (runs.run_key << 28 | 268435455) UNION ALL SELECT run_id, tokens.event_key & 268435455 AS seq, strftime('%Y-%m-%dT%H:%M:%S', (runs.started_at_us + tokens.after_us) / 1000000, 'unixepoch') || printf('.%06dZ', (runs.started_at_us + tokens.after_us) % 1000000) AS at, tokens.turn, 'TokenSampled' AS kind, version, NULL AS seal FROM runs JOIN tokens ON tokens.event_key BETWEEN (runs.run_key << 28) AND (runs.run_key << 28 | 268435455);
CREATE VIEW turns_df AS SELECT run_id, started.turn, coalesce(json_extract(started.body, '$.first_step'), 0) AS first_step, json_extract(started.body, '$.prompt_tokens') AS prompt_tokens, json_extract(cachedecided.body, '$.reused_tokens') AS reused_tokens, json_extract(cachedecided.body, '$.computed_tokens') AS computed_tokens, json_extract(turnfinished.body, '$.generated_tokens') AS generated_tokens, CASE WHEN instr(cachedecided.body, '\u0000') THEN json_extract(replace(replace(replace(cachedecided.body, '\\', char(1)), '\u0000', '\ufffd'), char(1), '\\'), '$.decision') ELSE json_extract(cachedecided.body, '$.decision') END AS decision, CASE WHEN instr(cachedecided.body, '\u0000') THEN json_extract(replace(replace(replace(cachedecided.body, '\\', char(1)), '\u0000', '\ufffd'), char(1), '\\'), '$.reason') ELSE json_extract(cachedecided.body, '$.reason') END AS reason, coalesce(json_extract(started.body, '$.sampling.do_sample'), 0) AS do_sample, CASE WHEN coalesce(json_extract(started.body, '$.sampling.do_sample'), 0) THEN CAST(json_extract(started.body, '$.sampling.temperature') AS REAL) END AS temperature, CASE WHEN coalesce(json_extract(started.body, '$.sampling.do_sample'), 0) THEN CAST(json_extract(started.body, '$.sampling.top_p') AS REAL) END AS top_p, CASE WHEN coalesce(json_extract(started.body, '$.sampling.do_sample'), 0) THEN json_extract(started.body, '$.sampling.top_k') END AS top_k, json_extract(started.body, '$.seed') AS seed, CASE WHEN instr(turnfinished.body, '\u0000') THEN json_extract(replace(replace(replace(turnfinished.body, '\\', char(1)), '\u0000', '\ufffd'), char(1), '\\'), '$.stop_reason') ELSE json_extract(turnfinished.body, '$.stop_reason') END AS stop_reason, json_extract(turnfinished.body, '$.duration_us') AS duration_us, json_extract(prefillcompleted.body, '$.duration_us') AS prefill_us, CASE WHEN instr(turnfinished.body, '\u0000') THEN json_extract(replace(replace(replace(turnfinished.body, '\\', char(1)), '\u0000', '\ufffd'), char(1), '\\'), '$.text') ELSE json_extract(turnfinished.body, '$.text') END AS text, strftime('%Y-%m-%dT%H:%M:%S', (runs.started_at_us + started.after_us) / 1000000, 'unixepoch') || printf('.%06dZ', (runs.started_at_us + started.after_us) % 1000000) AS started_at, (SELECT count(*) FROM events AS toolreturned WHERE toolreturned.kind = 'ToolReturned' AND toolreturned.turn = started.turn AND toolreturned.event_key > coalesce((SELECT max(other.event_key) FROM events AS other WHERE other.kind = 'TurnStarted' AND other.event_key < started.event_key AND other.event_key BETWEEN (runs.run_key << 28) AND (runs.run_key << 28 | 268435455)), runs.run_key << 28) AND toolreturned.event_key < started.event_key) AS tool_results, (SELECT coalesce(sum(json_extract(toolreturned.body, '$.content_tokens')), 0) FROM events AS toolreturned WHERE toolreturned.kind = 'ToolReturned' AND toolreturned.turn = started.turn AND toolreturned.event_key > coalesce((SELECT max(other.event_key) FROM events AS other WHERE other.kind = 'TurnStarted' AND other.event_key < started.event_key AND other.event_key BETWEEN (runs.run_key << 28) AND (runs.run_key << 28 | 268435455)), runs.run_key << 28) AND toolreturned.event_key < started.event_key) AS tool_tokens, (SELECT coalesce(sum(json_extract(historypruned.body, '$.tokens_before') - json_extract(historypruned.body, '$.tokens_after')), 0) FROM events AS historypruned WHERE historypruned.kind = 'HistoryPruned' AND historypruned.turn = started.turn AND historypruned.event_key > coalesce((SELECT max(other.event_key) FROM events AS other WHERE other.kind = 'TurnStarted' AND other.event_key < started.event_key AND other.event_key BETWEEN (runs.run_key << 28) AND (runs.run_key << 28 | 268435455)), runs.run_key << 28) AND historypruned.event_key < started.event_key) AS pruned_tokens, CASE WHEN instr(started.body, '\u0000') THEN json_extract(replace(replace(replace(started.body, '\\', char(1)), '\u0000', '\ufffd'), char(1), '\\'), '$.history_reason') ELSE json_extract(started.body, '$.history_reason') END AS history_reason FROM runs JOIN events AS started ON started.event_key BETWEEN (runs.run_key << 28) AND (runs.run_key << 28 | 268435455) AND started.kind = 'TurnStarted'  LEFT JOIN events AS cachedecided ON cachedecided.kind = 'CacheDecided' AND cachedecided.turn = started.turn AND cachedecided.event_key = (SELECT min(later.event_key) FROM events AS later WHERE later.event_key > started.event_key AND later.event_key BETWEEN (runs.run_key << 28) AND (runs.run_key << 28 | 268435455) AND later.kind IN ('TurnStarted', 'CacheDecided'))  LEFT JOIN events AS prefillcompleted ON prefillcompleted.kind = 'PrefillCompleted' AND prefillcompleted.turn = started.turn AND prefillcompleted.event_key = (SELECT min(later.event_key) FROM events AS later WHERE later.event_key > started.event_key AND later.event_key BETWEEN (runs.run_key << 28) AND (runs.run_key << 28 | 268435455) AND later.kind IN ('TurnStarted', 'PrefillCompleted'))  LEFT JOIN events AS turnfinished ON turnfinished.kind = 'TurnFinished' AND turnfinished.turn = started.turn AND turnfinished.event_key = (SELECT min(later.event_key) FROM events AS later WHERE later.event_key > started.event_key AND later.event_key BETWEEN (runs.run_key << 28) AND (runs.run_key << 28 | 268435455) AND later.kind IN ('TurnStarted', 'TurnFinished'));
CREATE VIEW tokens_df AS SELECT run_id, turn, step, position, token_id, CASE WHEN (logprob_f32 >> 23 & 255) BETWEEN 100 AND 149 THEN (logprob_f32 & 8388607 | 8388608) * (1 - (logprob_f32 < 0) * 2.0) / (1 << 150 - (logprob_f32 >> 23 & 255)) WHEN (logprob_f32 >> 23 & 255) < 150 THEN ((logprob_f32 & 8388607) + ((logprob_f32 >> 23 & 255) > 0) * 8388608) * (1 - (logprob_f32 < 0) * 2.0) / (1 << (150 - max((logprob_f32 >> 23 & 255), 1)) / 3) / (1 << (150 - max((logprob_f32 >> 23 & 255), 1)) / 3) / (1 << (150 - max((logprob_f32 >> 23 & 255), 1)) - (150 - max((logprob_f32 >> 23 & 255), 1)) / 3 * 2) ELSE ((logprob_f32 & 8388607) + ((logprob_f32 >> 23 & 255) > 0) * 8388608) * (1 - (logprob_f32 < 0) * 2.0) * (1 << ((logprob_f32 >> 23 & 255) - 150) / 2) * (1 << ((logprob_f32 >> 23 & 255) - 150) - ((logprob_f32 >> 23 & 255) - 150) / 2) END AS logprob, CASE WHEN (logprob_processed_f32 >> 23 & 255) BETWEEN 100 AND 149 THEN (logprob_processed_f32 & 8388607 | 8388608) * (1 - (logprob_processed_f32 < 0) * 2.0) / (1 << 150 - (logprob_processed_f32 >> 23 & 255)) WHEN (logprob_processed_f32 >> 23 & 255) < 150 THEN ((logprob_processed_f32 & 8388607) + ((logprob_processed_f32 >> 23 & 255) > 0) * 8388608) * (1 - (logprob_processed_f32 < 0) * 2.0) / (1 << (150 - max((logprob_processed_f32 >> 23 & 255), 1)) / 3) / (1 << (150 - max((logprob_processed_f32 >> 23 & 255), 1)) / 3) / (1 << (150 - max((logprob_processed_f32 >> 23 & 255), 1)) - (150 - max((logprob_processed_f32 >> 23 & 255), 1)) / 3 * 2) ELSE ((logprob_processed_f32 & 8388607) + ((logprob_processed_f32 >> 23 & 255) > 0) * 8388608) * (1 - (logprob_processed_f32 < 0) * 2.0) * (1 << ((logprob_processed_f32 >> 23 & 255) - 150) / 2) * (1 << ((logprob_processed_f32 >> 23 & 255) - 150) - ((logprob_processed_f32 >> 23 & 255) - 150) / 2) END AS logprob_processed, (64.0 - ((entropy_f16 >> 8) >> 7 & 1) * 128.0) * ((((entropy_f16 >> 8) & 3) << 8) + (entropy_f16 & 255) + (((entropy_f16 >> 8) >> 2 & 31) > 0) * 1024) / (1 << 31 - max(((entropy_f16 >> 8) >> 2 & 31), 1)) AS entropy, (64.0 - ((top_gap_f16 >> 8) >> 7 & 1) * 128.0) * ((((top_gap_f16 >> 8) & 3) << 8) + (top_gap_f16 & 255) + (((top_gap_f16 >> 8) >> 2 & 31) > 0) * 1024) / (1 << 31 - max(((top_gap_f16 >> 8) >> 2 & 31), 1)) AS top_gap, duration_us, tokens.event_key & 268435455 AS seq, strftime('%Y-%m-%dT%H:%M:%S', (runs.started_at_us + tokens.after_us) / 1000000, 'unixepoch') || printf('.%06dZ', (runs.started_at_us + tokens.after_us) % 1000000) AS at FROM runs JOIN tokens ON tokens.event_key BETWEEN (runs.run_key << 28) AND (runs.run_key << 28 | 268435455);
CREATE VIEW top_logprobs_df AS SELECT run_id, turn, step, seq, rank, CASE WHEN width > 0 THEN (instr(every_byte, substr(ids, rank * width + 1 + 0, 1)) - 1) << 0 ELSE 0 END + CASE WHEN width > 1 THEN (instr(every_byte, substr(ids, rank * width + 1 + 1, 1)) - 1) << 8 ELSE 0 END + CASE WHEN width > 2 THEN (instr(every_byte, substr(ids, rank * width + 1 + 2, 1)) - 1) << 16 ELSE 0 END + CASE WHEN width > 3 THEN (instr(every_byte, substr(ids, rank * width + 1 + 3, 1)) - 1) << 24 ELSE 0 END AS token_id, (64.0 - ((instr(every_byte, substr(logprobs, rank * 2 + 2, 1)) - 1) >> 7 & 1) * 128.0) * ((((instr(every_byte, substr(logprobs, rank * 2 + 2, 1)) - 1) & 3) << 8) + (instr(every_byte, substr(logprobs, rank * 2 + 1, 1)) - 1) + (((instr(every_byte, substr(logprobs, rank * 2 + 2, 1)) - 1) >> 2 & 31) > 0) * 1024) / (1 << 31 - max(((instr(every_byte, substr(logprobs, rank * 2 + 2, 1)) - 1) >> 2 & 31), 1)) AS logprob FROM (SELECT run_id, turn, step, tokens.event_key & 268435455 AS seq, places.key AS rank, top_ids AS ids, top_logprobs_f16 AS logprobs, length(top_ids) / (length(top_logprobs_f16) / 2) AS width, x'000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f606162636465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7f808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9fa0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebfc0c1c2c3c4c5c6c7c8c9cacbcccdcecfd0d1d2d3d4d5d6d7d8d9dadbdcdddedfe0e1e2e3e4e5e6e7e8e9eaebecedeeeff0f1f2f3f4f5f6f7f8f9fafbfcfdfeff' AS every_byte FROM runs JOIN tokens ON tokens.event_key BETWEEN (runs.run_key << 28) AND (runs.run_key << 28 | 268435455) JOIN json_each('[' || rtrim(replace(hex(zeroblob(length(top_logprobs_f16) / 2)), '00', '0,'), ',') || ']') AS places WHERE top_ids IS NOT NULL);
CREATE VIEW cache_df AS SELECT run_id, decided.turn, CASE WHEN instr(decided.body, '\u0000') THEN json_extract(replace(replace(replace(decided.body, '\\', char(1)), '\u0000', '\ufffd'), char(1), '\\'), '$.decision') ELSE json_extract(decided.body, '$.decision') END AS decision, CASE WHEN instr(decided.body, '\u0000') THEN json_extract(replace(replace(replace(decided.body, '\\', char(1)), '\u0000', '\ufffd'), char(1), '\\'), '$.reason') ELSE json_extract(decided.body, '$.reason') END AS reason, json_extract(decided.body, '$.prompt_tokens') AS prompt_tokens, json_extract(decided.body, '$.reused_tokens') AS reused_tokens, json_extract(decided.body, '$.computed_tokens') AS computed_tokens, json_extract(decided.body, '$.cached_tokens') AS cached_tokens, json_extract(decided.body, '$.cropped_tokens') AS cropped_tokens, json_extract(decided.body, '$.divergence_index') AS divergence_index, json_extract(decided.body, '$.divergence_cached_id') AS divergence_cached_id, json_extract(decided.body, '$.divergence_prompt_id') AS divergence_prompt_id, CASE WHEN instr(decided.body, '\u0000') THEN json_extract(replace(replace(replace(decided.body, '\\', char(1)), '\u0000', '\ufffd'), char(1), '\\'), '$.key_field') ELSE json_extract(decided.body, '$.key_field') END AS key_field, CASE WHEN instr(decided.body, '\u0000') THEN json_extract(replace(replace(replace(decided.body, '\\', char(1)), '\u0000', '\ufffd'), char(1), '\\'), '$.source') ELSE json_extract(decided.body, '$.source') END AS source, CASE WHEN instr(decided.body, '\u0000') THEN json_extract(replace(replace(replace(decided.body, '\\', char(1)), '\u0000', '\ufffd'), char(1), '\\'), '$.disk_reason') ELSE json_extract(decided.body, '$.disk_reason') END AS disk_reason, json_extract(prefillcompleted.body, '$.duration_us') AS prefill_us, json_extract(prefillcompleted.body, '$.kv_bytes') AS kv_bytes, json_extract(prefillcompleted.body, '$.peak_bytes') AS peak_bytes, strftime('%Y-%m-%dT%H:%M:%S', (runs.started_at_us + decided.after_us) / 1000000, 'unixepoch') || printf('.%06dZ', (runs.started_at_us + decided.after_us) % 1000000) AS decided_at FROM runs JOIN events AS decided ON decided.event_key BETWEEN (runs.run_key << 28) AND (runs.run_key << 28 | 268435455) AND decided.kind = 'CacheDecided'  LEFT JOIN events AS prefillcompleted ON prefillcompleted.kind = 'PrefillCompleted' AND prefillcompleted.turn = decided.turn AND prefillcompleted.event_key = (SELECT min(later.event_key) FROM events AS later WHERE later.event_key > decided.event_key AND later.event_key BETWEEN (runs.run_key << 28) AND (runs.run_key << 28 | 268435455) AND later.kind IN ('CacheDecided', 'PrefillCompleted'));
CREATE VIEW tools_df AS SELECT run_id, returned.turn, CASE WHEN instr(returned.body, '\u0000') THEN json_extract(replace(replace(replace(returned.body, '\\', char(1)), '\u0000', '\ufffd'), char(1), '\\'), '$.call_id') ELSE json_extract(returned.body, '$.call_id') END AS call_id, CASE WHEN instr(returned.body, '\u0000') THEN json_extract(replace(replace(replace(returned.body, '\\', char(1)), '\u0000', '\ufffd'), char(1), '\\'), '$.name') ELSE json_extract(returned.body, '$.name') END AS name, CASE WHEN instr(called.body, '\u0000') THEN json_extract(replace(replace(replace(called.body, '\\', char(1)), '\u0000', '\ufffd'), char(1), '\\'), '$.arguments') ELSE json_extract(called.body, '$.arguments') END AS arguments, json_extract(returned.body, '$.content_tokens') AS content_tokens, json_extract(returned.body, '$.payload_tokens') AS payload_tokens, json_extract(returned.body, '$.payload_bytes') AS payload_bytes, CASE WHEN instr(returned.body, '\u0000') THEN json_extract(replace(replace(replace(returned.body, '\\', char(1)), '\u0000', '\ufffd'), char(1), '\\'), '$.payload_sha256') ELSE json_extract(returned.body, '$.payload_sha256') END AS payload_sha256, json_array_length(returned.body, '$.tensors') AS tensors, CASE WHEN instr(returned.body, '\u0000') THEN json_extract(replace(replace(replace(returned.body, '\\', char(1)), '\u0000', '\ufffd'), char(1), '\\'), '$.error') ELSE json_extract(returned.body, '$.error') END AS error, json_extract(returned.body, '$.duration_us') AS duration_us, strftime('%Y-%m-%dT%H:%M:%S', (runs.started_at_us + returned.after_us) / 1000000, 'unixepoch') || printf('.%06dZ', (runs.started_at_us + returned.after_us) % 1000000) AS returned_at FROM runs JOIN events AS returned ON returned.event_key BETWEEN (runs.run_key << 28) AND (runs.run_key << 28 | 268435455) AND returned.kind = 'ToolReturned'  LEFT JOIN events AS called ON called.event_key = (SELECT max(earlier.event_key) FROM events AS earlier WHERE earlier.event_key < returned.event_key AND earlier.event_key BETWEEN (runs.run_key << 28) AND (runs.run_key << 28 | 268435455) AND earlier.kind = 'ToolCalled' AND CASE WHEN instr(earlier.body, '\u0000') THEN json_extract(replace(replace(replace(earlier.body, '\\', char(1)), '\u0000', '\ufffd'), char(1), '\\'), '$.call_id') ELSE json_extract(earlier.body, '$.call_id') END = CASE WHEN instr(returned.body, '\u0000') THEN json_extract(replace(replace(replace(returned.body, '\\', char(1)), '\u0000', '\ufffd'), char(1), '\\'), '$.call_id') ELSE json_extract(returned.body, '$.call_id') END);
CREATE VIEW verdicts_df AS SELECT run_id, strftime('%Y-%m-%dT%H:%M:%S', (at_us) / 1000000, 'unixepoch') || printf('.%06dZ', (at_us) % 1000000) AS at, replay, verdict, reason, verdicts.model, floor_version, verdicts.turns, tokens, mismatches, near_ties, logprob_difference_max, margin_max, duration_us FROM runs JOIN verdicts ON verdicts.run_key = runs.run_key;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('runs',6);
COMMIT;
