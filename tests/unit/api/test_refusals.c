/* refusals: which field each bad request is told about, with which code and in which words. */
#include "tests/unit/api/requests.h"

#define LONG32        "0123456789abcdef0123456789abcdef"
#define LONG129       LONG32 LONG32 LONG32 LONG32 "x"
#define USER(content) "{\"messages\":[{\"role\":\"user\",\"content\":" content "}]}"
#define CALLS(calls)  "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":" calls "}]}"

static const struct {
    const char *name;
    enum endpoint endpoint;
    enum which model;
    const char *body;
    enum err_code code;
    const char *field, *says;
} INVALID[] = {
    { "not an object", CHAT, PLAIN_MODEL, "[1]", ERR_REQUEST, "", "must be a JSON object" },
    { "not an object either", COMPLETION, PLAIN_MODEL, "\"a\"", ERR_REQUEST, "",
      "must be a JSON object" },
    { "another model", CHAT, PLAIN_MODEL, "{\"model\":\"gpt-4\"," M "}", ERR_NOT_FOUND, "model",
      "\"gpt-4\" does not exist; this server has \"nibble\"" },
    { "another model before a bad field", CHAT, PLAIN_MODEL, "{\"model\":\"gpt-4\"}", ERR_NOT_FOUND,
      "model", "does not exist" },
    { "another model, completions", COMPLETION, PLAIN_MODEL, "{\"model\":\"\"," P "}",
      ERR_NOT_FOUND, "model", "does not exist" },
    { "a model by number", COMPLETION, PLAIN_MODEL, "{\"model\":1," P "}", ERR_REQUEST, "model",
      "must be a string" },
    { "stream as a number", CHAT, PLAIN_MODEL, "{\"stream\":1," M "}", ERR_REQUEST, "stream",
      "got 1" },
    { "stream_options without a stream", CHAT, PLAIN_MODEL, "{\"stream_options\":{}," M "}",
      ERR_REQUEST, "stream_options", "only allowed when stream is true" },
    { "stream_options as a list", CHAT, PLAIN_MODEL,
      "{\"stream\":true,\"stream_options\":[]," M "}", ERR_REQUEST, "stream_options",
      "must be an object" },
    { "include_usage as a string", CHAT, PLAIN_MODEL,
      "{\"stream\":true,\"stream_options\":{\"include_usage\":\"yes\"}," M "}", ERR_REQUEST,
      "stream_options.include_usage", "" },
    { "a call's function as a number", CHAT, PLAIN_MODEL, CALLS("[{\"function\":1}]"), ERR_REQUEST,
      "messages[0].tool_calls[0].function", "must be an object with name and arguments" },
    { "a call's name as a number", CHAT, PLAIN_MODEL, CALLS("[{\"function\":{\"name\":1}}]"),
      ERR_REQUEST, "messages[0].tool_calls[0].function.name", "must be a string" },
    { "add_generation_prompt as a number", CHAT, PLAIN_MODEL, "{\"add_generation_prompt\":1," M "}",
      ERR_REQUEST, "add_generation_prompt", "must be true or false" },
    { "continue_final_message as a number", CHAT, PLAIN_MODEL,
      "{\"continue_final_message\":1," M "}", ERR_REQUEST, "continue_final_message",
      "must be true or false" },
    { "continuous_usage_stats as a number", CHAT, PLAIN_MODEL,
      "{\"stream\":true,\"stream_options\":{\"continuous_usage_stats\":1}," M "}", ERR_REQUEST,
      "stream_options.continuous_usage_stats", "must be true or false" },
    { "a type of response as a number", CHAT, PLAIN_MODEL,
      "{\"response_format\":{\"type\":1}," M "}", ERR_REQUEST, "response_format.type",
      "must be a string" },
    { "an indentation", COMPLETION, PLAIN_MODEL, "{\"n_indent\":1," P "}", ERR_REQUEST, "n_indent",
      "is not supported by this server" },
    { "an indentation in words", COMPLETION, PLAIN_MODEL, "{\"n_indent\":\"0\"," P "}", ERR_REQUEST,
      "n_indent", "is not supported by this server" },
    { "a target", COMPLETION, PLAIN_MODEL, "{\"adaptive_target\":0," P "}", ERR_REQUEST,
      "adaptive_target", "is not supported by this server" },
    { "a target in words", COMPLETION, PLAIN_MODEL, "{\"adaptive_target\":\"-1\"," P "}",
      ERR_REQUEST, "adaptive_target", "is not supported by this server" },
    { "modalities, none", CHAT, PLAIN_MODEL, "{\"modalities\":[]," M "}", ERR_REQUEST, "modalities",
      "is not supported by this server" },
    { "a seed of more than 64 bits", COMPLETION, PLAIN_MODEL,
      "{\"seed\":9223372036854775808," P "}", ERR_REQUEST, "seed", "64 bits" },
    { "a sampler with a long name", COMPLETION, PLAIN_MODEL,
      "{\"samplers\":[\"aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeee\"]," P "}", ERR_REQUEST,
      "samplers[0]", "has no sampler \"aaaaaaaaaabbbbbbbbbbccccccccccdddddddddd\"" },
    { "a sampler by number", COMPLETION, PLAIN_MODEL, "{\"samplers\":[1]," P "}", ERR_REQUEST,
      "samplers[0]", "must be a string" },
    { "a bias for a number and more", COMPLETION, PLAIN_MODEL, "{\"logit_bias\":{\"12a\":1}," P "}",
      ERR_REQUEST, "logit_bias", "has the key \"12a\", wanted a token id" },
    { "a request's name of nothing", COMPLETION, PLAIN_MODEL, "{\"request_id\":\"\"," P "}",
      ERR_REQUEST, "request_id", "must have 1 to 128 letters" },
    { "a request's name with a blank", COMPLETION, PLAIN_MODEL, "{\"request_id\":\"a b\"," P "}",
      ERR_REQUEST, "request_id", "must have 1 to 128 letters" },
    { "a request's name of 129 letters", COMPLETION, PLAIN_MODEL,
      "{\"request_id\":\"" LONG129 "\"," P "}", ERR_REQUEST, "request_id",
      "must have 1 to 128 letters" },
    { "n 0", CHAT, PLAIN_MODEL, "{\"n\":0," M "}", ERR_REQUEST, "n", "from 1 to 128, got 0" },
    { "n 129", CHAT, PLAIN_MODEL, "{\"n\":129," M "}", ERR_REQUEST, "n", "got 129" },
    { "n 1.5", CHAT, PLAIN_MODEL, "{\"n\":1.5," M "}", ERR_REQUEST, "n", "got 1.5" },
    { "n of 1e300", CHAT, PLAIN_MODEL, "{\"n\":1e300," M "}", ERR_REQUEST, "n", "" },
    { "best_of below n", COMPLETION, PLAIN_MODEL, "{\"n\":3,\"best_of\":2," P "}", ERR_REQUEST,
      "best_of", "at least n (3), got 2" },
    { "best_of 129", COMPLETION, PLAIN_MODEL, "{\"best_of\":129," P "}", ERR_REQUEST, "best_of",
      "got 129" },
    { "best_of over n in a stream", COMPLETION, PLAIN_MODEL,
      "{\"best_of\":2,\"stream\":true," P "}", ERR_REQUEST, "best_of", "with stream" },
    { "max_tokens 0 in chat", CHAT, PLAIN_MODEL, "{\"max_tokens\":0," M "}", ERR_REQUEST,
      "max_tokens", "from 1" },
    { "max_tokens -1", COMPLETION, PLAIN_MODEL, "{\"max_tokens\":-1," P "}", ERR_REQUEST,
      "max_tokens", "from 0" },
    { "max_tokens of 2^31", COMPLETION, PLAIN_MODEL, "{\"max_tokens\":2147483648," P "}",
      ERR_REQUEST, "max_tokens", "" },
    { "max_completion_tokens as a string", CHAT, PLAIN_MODEL,
      "{\"max_completion_tokens\":\"5\"," M "}", ERR_REQUEST, "max_completion_tokens", "" },
    { "min_tokens over max_tokens", CHAT, PLAIN_MODEL, "{\"min_tokens\":6,\"max_tokens\":5," M "}",
      ERR_REQUEST, "min_tokens", "at most max_tokens (5), got 6" },
    { "min_tokens over the default of completions", COMPLETION, PLAIN_MODEL,
      "{\"min_tokens\":17," P "}", ERR_REQUEST, "min_tokens", "at most max_tokens (16), got 17" },
    { "min_tokens over the default of chat", CHAT, MAX_32, "{\"min_tokens\":33," M "}", ERR_REQUEST,
      "min_tokens", "at most max_tokens (32), got 33" },
    { "min_tokens over the context", CHAT, PLAIN_MODEL, "{\"min_tokens\":101," M "}", ERR_REQUEST,
      "min_tokens", "context of 100" },
    { "a negative temperature", CHAT, PLAIN_MODEL, "{\"temperature\":-0.1," M "}", ERR_REQUEST,
      "temperature", "-0.1" },
    { "temperature as a string", CHAT, PLAIN_MODEL, "{\"temperature\":\"hot\"," M "}", ERR_REQUEST,
      "temperature", "" },
    { "top_p over 1", CHAT, PLAIN_MODEL, "{\"top_p\":1.01," M "}", ERR_REQUEST, "top_p", "1.01" },
    { "top_k -2", CHAT, PLAIN_MODEL, "{\"top_k\":-2," M "}", ERR_REQUEST, "top_k", "-2" },
    { "min_p -1", CHAT, PLAIN_MODEL, "{\"min_p\":-1," M "}", ERR_REQUEST, "min_p", "" },
    { "typical_p 2", CHAT, PLAIN_MODEL, "{\"typical_p\":2," M "}", ERR_REQUEST, "typical_p", "" },
    { "repetition_penalty 0", CHAT, PLAIN_MODEL, "{\"repetition_penalty\":0," M "}", ERR_REQUEST,
      "repetition_penalty", "" },
    { "repeat_penalty -1", CHAT, PLAIN_MODEL, "{\"repeat_penalty\":-1," M "}", ERR_REQUEST,
      "repeat_penalty", "" },
    { "presence_penalty 2.1", CHAT, PLAIN_MODEL, "{\"presence_penalty\":2.1," M "}", ERR_REQUEST,
      "presence_penalty", "" },
    { "frequency_penalty -3", CHAT, PLAIN_MODEL, "{\"frequency_penalty\":-3," M "}", ERR_REQUEST,
      "frequency_penalty", "" },
    { "a fraction as a seed", CHAT, PLAIN_MODEL, "{\"seed\":0.5," M "}", ERR_REQUEST, "seed", "" },
    { "a seed of 2^63", CHAT, PLAIN_MODEL, "{\"seed\":9223372036854775808," M "}", ERR_REQUEST,
      "seed", "9223372036854775808" },
    { "a seed of 2^64", CHAT, PLAIN_MODEL, "{\"seed\":18446744073709551616," M "}", ERR_REQUEST,
      "seed", "" },
    { "a bias as a number", CHAT, PLAIN_MODEL, "{\"logit_bias\":5," M "}", ERR_REQUEST,
      "logit_bias", "must be an object" },
    { "a bias as a list of ids", CHAT, PLAIN_MODEL, "{\"logit_bias\":[5,1]," M "}", ERR_REQUEST,
      "logit_bias[0]", "must be a pair" },
    { "a pair of three", CHAT, PLAIN_MODEL, "{\"logit_bias\":[[5,1],[5,1,2]]," M "}", ERR_REQUEST,
      "logit_bias[1]", "must be a pair" },
    { "a pair with an id of 2^32 + 5", CHAT, PLAIN_MODEL, "{\"logit_bias\":[[4294967301,1]]," M "}",
      ERR_REQUEST, "logit_bias[0][0]", "4294967301" },
    { "a pair with an empty text", CHAT, PLAIN_MODEL, "{\"logit_bias\":[[\"\",1]]," M "}",
      ERR_REQUEST, "logit_bias[0][0]", "got 0" },
    { "a pair with true", CHAT, PLAIN_MODEL, "{\"logit_bias\":[[5,true]]," M "}", ERR_REQUEST,
      "logit_bias[0][1]", "or false" },
    { "a text's bias without a tokenizer", COMPLETION, NO_TOKENIZER,
      "{\"logit_bias\":[[\"a\",1]],\"prompt\":[1]}", ERR_REQUEST, "logit_bias[0]",
      "tokenizer.json is missing" },
    { "a bias for a word", CHAT, PLAIN_MODEL, "{\"logit_bias\":{\"cat\":1}," M "}", ERR_REQUEST,
      "logit_bias", "\"cat\", wanted a token id from 0 to 999" },
    { "a bias for a signed id", CHAT, PLAIN_MODEL, "{\"logit_bias\":{\"+5\":1}," M "}", ERR_REQUEST,
      "logit_bias", "\"+5\"" },
    { "a bias for an id behind a blank", CHAT, PLAIN_MODEL, "{\"logit_bias\":{\" 5\":1}," M "}",
      ERR_REQUEST, "logit_bias", "\" 5\"" },
    { "a bias for no id", CHAT, PLAIN_MODEL, "{\"logit_bias\":{\"\":1}," M "}", ERR_REQUEST,
      "logit_bias", "\"\"" },
    { "a bias for an id of the vocabulary's size", CHAT, PLAIN_MODEL,
      "{\"logit_bias\":{\"1000\":1}," M "}", ERR_REQUEST, "logit_bias", "\"1000\"" },
    { "a bias for an id of 20 digits", CHAT, PLAIN_MODEL,
      "{\"logit_bias\":{\"18446744073709551621\":1}," M "}", ERR_REQUEST, "logit_bias",
      "18446744073709551621" },
    { "a bias of 101", CHAT, PLAIN_MODEL, "{\"logit_bias\":{\"7\":101}," M "}", ERR_REQUEST,
      "logit_bias.7", "101" },
    { "a bias of true", CHAT, PLAIN_MODEL, "{\"logit_bias\":{\"7\":true}," M "}", ERR_REQUEST,
      "logit_bias.7", "" },
    { "an empty stop string", CHAT, PLAIN_MODEL, "{\"stop\":\"\"," M "}", ERR_REQUEST, "stop",
      "1 to 4096 bytes, got 0" },
    { "an empty stop string in a list", CHAT, PLAIN_MODEL, "{\"stop\":[\"a\",\"\"]," M "}",
      ERR_REQUEST, "stop[1]", "got 0" },
    { "a stop string by number", CHAT, PLAIN_MODEL, "{\"stop\":[1]," M "}", ERR_REQUEST, "stop[0]",
      "must be a string" },
    { "stop as an object", CHAT, PLAIN_MODEL, "{\"stop\":{}," M "}", ERR_REQUEST, "stop",
      "a string or a list of strings" },
    { "stop strings without a tokenizer", COMPLETION, NO_TOKENIZER,
      "{\"stop\":\"a\",\"prompt\":[1]}", ERR_REQUEST, "stop", "tokenizer.json is missing" },
    { "a stop token out of the vocabulary", COMPLETION, PLAIN_MODEL,
      "{\"stop_token_ids\":[1,1000]," P "}", ERR_REQUEST, "stop_token_ids[1]", "1000" },
    { "a negative stop token", COMPLETION, PLAIN_MODEL, "{\"stop_token_ids\":[-1]," P "}",
      ERR_REQUEST, "stop_token_ids[0]", "-1" },
    { "stop tokens as a number", COMPLETION, PLAIN_MODEL, "{\"stop_token_ids\":5," P "}",
      ERR_REQUEST, "stop_token_ids", "must be a list" },
    { "a salt by number", COMPLETION, PLAIN_MODEL, "{\"cache_salt\":5," P "}", ERR_REQUEST,
      "cache_salt", "must be a string" },
    { "priority of 2^31", COMPLETION, PLAIN_MODEL, "{\"priority\":2147483648," P "}", ERR_REQUEST,
      "priority", "" },

    /* known, not honoured */
    { "a suffix", COMPLETION, PLAIN_MODEL, "{\"suffix\":\"x\"," P "}", ERR_REQUEST, "suffix",
      "suffix is not supported" },
    { "a grammar that is no text", COMPLETION, PLAIN_MODEL, "{\"grammar\":{}," P "}", ERR_REQUEST,
      "grammar", "must be a string" },
    { "guided_json as a list", CHAT, PLAIN_MODEL, "{\"guided_json\":[]," M "}", ERR_REQUEST,
      "guided_json", "must be a JSON Schema: an object or its JSON text" },
    { "guided_whitespace_pattern", CHAT, PLAIN_MODEL, "{\"guided_whitespace_pattern\":\" \"," M "}",
      ERR_REQUEST, "guided_whitespace_pattern", "not supported" },
    { "structured_outputs as a string", CHAT, PLAIN_MODEL, "{\"structured_outputs\":\"x\"," M "}",
      ERR_REQUEST, "structured_outputs", "must be an object" },
    { "structured_outputs without a form", CHAT, PLAIN_MODEL, "{\"structured_outputs\":{}," M "}",
      ERR_REQUEST, "structured_outputs", "must have one of json, regex" },
    { "structured_outputs with two", CHAT, PLAIN_MODEL,
      "{\"structured_outputs\":{\"regex\":\"a\",\"json\":{}}," M "}", ERR_REQUEST,
      "structured_outputs.json", "cannot be combined with structured_outputs.regex" },
    { "structured_outputs with another", CHAT, PLAIN_MODEL,
      "{\"structured_outputs\":{\"lark\":\"a\"}," M "}", ERR_REQUEST, "structured_outputs.lark",
      "is not supported" },
    { "choices that are no texts", CHAT, PLAIN_MODEL,
      "{\"structured_outputs\":{\"choice\":[\"a\",1]}," M "}", ERR_REQUEST,
      "structured_outputs.choice[1]", "must be a string" },
    { "no choices", CHAT, PLAIN_MODEL, "{\"guided_choice\":[]," M "}", ERR_REQUEST, "guided_choice",
      "at least one string" },
    { "two forms by two names", COMPLETION, PLAIN_MODEL,
      "{\"grammar\":\"root ::= \\\"x\\\"\",\"response_format\":{\"type\":\"json_object\"}," P "}",
      ERR_REQUEST, "grammar", "cannot be combined with response_format" },
    { "tags without structures", CHAT, PLAIN_MODEL,
      "{\"response_format\":{\"type\":\"structural_tag\"}," M "}", ERR_REQUEST,
      "response_format.structures", "must be a list of 1 to 1024 tags" },
    { "a tag without an end", CHAT, PLAIN_MODEL,
      "{\"response_format\":{\"type\":\"structural_tag\",\"structures\":[{\"begin\":\"a\"}]}," M
      "}",
      ERR_REQUEST, "response_format.structures[0].end", "must be a string" },
    { "a tag's schema as a text", CHAT, PLAIN_MODEL,
      "{\"response_format\":{\"type\":\"structural_tag\",\"structures\":[{\"begin\":\"a\","
      "\"end\":\"b\",\"schema\":\"{}\"}]}," M "}",
      ERR_REQUEST, "response_format.structures[0].schema", "must be a JSON Schema" },
    { "triggers that are no texts", CHAT, PLAIN_MODEL,
      "{\"response_format\":{\"type\":\"structural_tag\",\"structures\":[{\"begin\":\"a\","
      "\"end\":\"b\"}],\"triggers\":[1]}," M "}",
      ERR_REQUEST, "response_format.triggers[0]", "must be a string" },
    { "json_schema without one", CHAT, PLAIN_MODEL,
      "{\"response_format\":{\"type\":\"json_schema\"}," M "}", ERR_REQUEST,
      "response_format.json_schema", "must be an object with name and schema" },
    { "a schema that is a list", CHAT, PLAIN_MODEL,
      "{\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"schema\":[]}}," M "}",
      ERR_REQUEST, "response_format.json_schema.schema", "must be a JSON Schema: an object" },
    { "response_format without a type", CHAT, PLAIN_MODEL, "{\"response_format\":{}," M "}",
      ERR_REQUEST, "response_format.type", "must be text, json_object" },
    { "response_format as a string", CHAT, PLAIN_MODEL, "{\"response_format\":\"text\"," M "}",
      ERR_REQUEST, "response_format", "must be an object" },
    { "a template in the request", CHAT, PLAIN_MODEL, "{\"chat_template\":\"{{ x }}\"," M "}",
      ERR_REQUEST, "chat_template", "not allowed" },
    { "adaptive-p", COMPLETION, PLAIN_MODEL, "{\"adaptive_target\":0.5," P "}", ERR_REQUEST,
      "adaptive_target", "not supported" },
    { "beam search", COMPLETION, PLAIN_MODEL, "{\"use_beam_search\":true," P "}", ERR_REQUEST,
      "use_beam_search", "" },

    /* samplers */
    { "mirostat 3", COMPLETION, PLAIN_MODEL, "{\"mirostat\":3," P "}", ERR_REQUEST, "mirostat",
      "from 0 to 2" },
    { "a negative tau", COMPLETION, PLAIN_MODEL, "{\"mirostat_tau\":-1," P "}", ERR_REQUEST,
      "mirostat_tau", "" },
    { "a sampler that is not there", COMPLETION, PLAIN_MODEL,
      "{\"samplers\":[\"top_k\",\"infill\"]," P "}", ERR_REQUEST, "samplers[1]", "\"infill\"" },
    { "a sampler twice", COMPLETION, PLAIN_MODEL, "{\"samplers\":[\"top_k\",\"top_k\"]," P "}",
      ERR_REQUEST, "samplers[1]", "top_k twice" },
    { "a letter that is no sampler", COMPLETION, PLAIN_MODEL, "{\"samplers\":\"kq\"," P "}",
      ERR_REQUEST, "samplers", "\"q\"" },
    { "samplers as a number", COMPLETION, PLAIN_MODEL, "{\"samplers\":5," P "}", ERR_REQUEST,
      "samplers", "a list of names" },
    { "samplers by number", COMPLETION, PLAIN_MODEL, "{\"samplers\":[5]," P "}", ERR_REQUEST,
      "samplers[0]", "must be a string" },
    { "xtc_probability 1.1", COMPLETION, PLAIN_MODEL, "{\"xtc_probability\":1.1," P "}",
      ERR_REQUEST, "xtc_probability", "1.1" },
    { "dry_base below 1", COMPLETION, PLAIN_MODEL, "{\"dry_base\":0.5," P "}", ERR_REQUEST,
      "dry_base", "" },
    { "a negative dry_multiplier", COMPLETION, PLAIN_MODEL, "{\"dry_multiplier\":-1," P "}",
      ERR_REQUEST, "dry_multiplier", "" },
    { "dry_penalty_last_n -2", COMPLETION, PLAIN_MODEL, "{\"dry_penalty_last_n\":-2," P "}",
      ERR_REQUEST, "dry_penalty_last_n", "-2" },
    { "a breaker of 65 bytes", COMPLETION, PLAIN_MODEL,
      "{\"dry_sequence_breakers\":[\"12345678901234567890123456789012345678901234567890123456789012"
      "345\"]," P "}",
      ERR_REQUEST, "dry_sequence_breakers[0]", "got 65" },
    { "breakers without a tokenizer", COMPLETION, NO_TOKENIZER,
      "{\"dry_multiplier\":1,\"prompt\":[1]}", ERR_REQUEST, "dry_sequence_breakers",
      "tokenizer.json is missing" },
    { "repeat_last_n -2", COMPLETION, PLAIN_MODEL, "{\"repeat_last_n\":-2," P "}", ERR_REQUEST,
      "repeat_last_n", "-2" },
    { "a negative range of temperatures", COMPLETION, PLAIN_MODEL, "{\"dynatemp_range\":-1," P "}",
      ERR_REQUEST, "dynatemp_range", "" },
    { "min_keep -1", COMPLETION, PLAIN_MODEL, "{\"min_keep\":-1," P "}", ERR_REQUEST, "min_keep",
      "" },
    { "no allowed token", COMPLETION, PLAIN_MODEL, "{\"allowed_token_ids\":[]," P "}", ERR_REQUEST,
      "allowed_token_ids", "at least one" },
    { "an allowed token of 2^32 + 5", COMPLETION, PLAIN_MODEL,
      "{\"allowed_token_ids\":[4294967301]," P "}", ERR_REQUEST, "allowed_token_ids[0]",
      "4294967301" },
    { "allowed tokens as an object", COMPLETION, PLAIN_MODEL, "{\"allowed_token_ids\":{}," P "}",
      ERR_REQUEST, "allowed_token_ids", "must be a list" },
    { "an empty bad word", COMPLETION, PLAIN_MODEL, "{\"bad_words\":[\"\"]," P "}", ERR_REQUEST,
      "bad_words[0]", "got 0" },
    { "bad words as a string", COMPLETION, PLAIN_MODEL, "{\"bad_words\":\"x\"," P "}", ERR_REQUEST,
      "bad_words", "must be a list of strings" },
    { "bad words without a tokenizer", COMPLETION, NO_TOKENIZER,
      "{\"bad_words\":[\"x\"],\"prompt\":[1]}", ERR_REQUEST, "bad_words",
      "tokenizer.json is missing" },

    /* what comes back */
    { "prompt_logprobs 21", COMPLETION, PLAIN_MODEL, "{\"prompt_logprobs\":21," P "}", ERR_REQUEST,
      "prompt_logprobs", "21" },
    { "prompt_logprobs in a stream", COMPLETION, PLAIN_MODEL,
      "{\"prompt_logprobs\":1,\"stream\":true," P "}", ERR_REQUEST, "prompt_logprobs",
      "with stream" },
    { "truncation to nothing", COMPLETION, PLAIN_MODEL, "{\"truncate_prompt_tokens\":0," P "}",
      ERR_REQUEST, "truncate_prompt_tokens", "from 1 to 99" },
    { "truncation to the context", COMPLETION, PLAIN_MODEL,
      "{\"truncate_prompt_tokens\":100," P "}", ERR_REQUEST, "truncate_prompt_tokens", "100" },
    { "response_fields in a stream", COMPLETION, PLAIN_MODEL,
      "{\"response_fields\":[\"usage\"],\"stream\":true," P "}", ERR_REQUEST, "response_fields",
      "with stream" },
    { "response_fields as a string", COMPLETION, PLAIN_MODEL,
      "{\"response_fields\":\"usage\"," P "}", ERR_REQUEST, "response_fields",
      "must be a list of strings" },
    { "a request_id with a line feed", COMPLETION, PLAIN_MODEL, "{\"request_id\":\"a\\nb\"," P "}",
      ERR_REQUEST, "request_id", "letters, digits" },
    { "an empty request_id", COMPLETION, PLAIN_MODEL, "{\"request_id\":\"\"," P "}", ERR_REQUEST,
      "request_id", "letters, digits" },
    { "t_max_predict_ms of 2^31", COMPLETION, PLAIN_MODEL,
      "{\"t_max_predict_ms\":2147483648," P "}", ERR_REQUEST, "t_max_predict_ms", "" },

    /* chat */
    { "no messages", CHAT, PLAIN_MODEL, "{}", ERR_REQUEST, "messages", "is required" },
    { "messages null", CHAT, PLAIN_MODEL, "{\"messages\":null}", ERR_REQUEST, "messages",
      "is required" },
    { "a prompt in chat", CHAT, PLAIN_MODEL, "{" P "}", ERR_REQUEST, "prompt", "use messages" },
    { "messages as a string", CHAT, PLAIN_MODEL, "{\"messages\":\"hi\"}", ERR_REQUEST, "messages",
      "must be a list" },
    { "no message", CHAT, PLAIN_MODEL, "{\"messages\":[]}", ERR_REQUEST, "messages",
      "at least one" },
    { "a message as a string", CHAT, PLAIN_MODEL, "{\"messages\":[\"hi\"]}", ERR_REQUEST,
      "messages[0]", "must be an object" },
    { "a null message", CHAT, PLAIN_MODEL, "{\"messages\":[null]}", ERR_REQUEST, "messages[0]",
      "must be an object" },
    { "no role", CHAT, PLAIN_MODEL, "{\"messages\":[{\"content\":\"hi\"}]}", ERR_REQUEST,
      "messages[0].role", "is required" },
    { "a role by number", CHAT, PLAIN_MODEL, "{\"messages\":[{\"role\":1,\"content\":\"hi\"}]}",
      ERR_REQUEST, "messages[0].role", "must be a string" },
    { "a role in the third message", CHAT, PLAIN_MODEL,
      "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":"
      "\"b\"},{\"role\":\"bot\",\"content\":\"c\"}]}",
      ERR_REQUEST, "messages[2].role", "got \"bot\"" },
    { "no content", CHAT, PLAIN_MODEL, "{\"messages\":[{\"role\":\"user\"}]}", ERR_REQUEST,
      "messages[0].content", "is required for the role user" },
    { "content null", CHAT, PLAIN_MODEL, USER("null"), ERR_REQUEST, "messages[0].content",
      "is required" },
    { "content as a number", CHAT, PLAIN_MODEL, USER("5"), ERR_REQUEST, "messages[0].content",
      "a string or a list of text parts" },
    { "content as an object", CHAT, PLAIN_MODEL, USER("{}"), ERR_REQUEST, "messages[0].content",
      "a string or a list" },
    { "a part as a string", CHAT, PLAIN_MODEL, USER("[\"a\"]"), ERR_REQUEST,
      "messages[0].content[0]", "must be an object" },
    { "an image", CHAT, PLAIN_MODEL,
      USER("[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"image_url\"}]"), ERR_REQUEST,
      "messages[0].content[1]", "\"image_url\"; this server takes text parts only" },
    { "a part without a type", CHAT, PLAIN_MODEL, USER("[{\"text\":\"a\"}]"), ERR_REQUEST,
      "messages[0].content[0]", "\"null\"" },
    { "a type by number", CHAT, PLAIN_MODEL, USER("[{\"type\":1}]"), ERR_REQUEST,
      "messages[0].content[0].type", "must be a string" },
    { "a part without text", CHAT, PLAIN_MODEL, USER("[{\"type\":\"text\"}]"), ERR_REQUEST,
      "messages[0].content[0].text", "is required" },
    { "a part with a number for text", CHAT, PLAIN_MODEL, USER("[{\"type\":\"text\",\"text\":1}]"),
      ERR_REQUEST, "messages[0].content[0].text", "must be a string" },
    { "tool_calls as an object", CHAT, PLAIN_MODEL, CALLS("{}"), ERR_REQUEST,
      "messages[0].tool_calls", "must be a list" },
    { "a call as a string", CHAT, PLAIN_MODEL, CALLS("[\"f\"]"), ERR_REQUEST,
      "messages[0].tool_calls[0]", "must be an object" },
    { "a call without a function", CHAT, PLAIN_MODEL, CALLS("[{}]"), ERR_REQUEST,
      "messages[0].tool_calls[0].function", "must be an object" },
    { "a call without a name", CHAT, PLAIN_MODEL, CALLS("[{\"function\":{}}]"), ERR_REQUEST,
      "messages[0].tool_calls[0].function.name", "is required" },
    { "arguments as a list", CHAT, PLAIN_MODEL,
      CALLS("[{\"function\":{\"name\":\"f\",\"arguments\":[]}}]"), ERR_REQUEST,
      "messages[0].tool_calls[0].function.arguments", "a string of JSON" },
    { "tools of a model without any", CHAT, PLAIN_MODEL,
      "{\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]," M "}", ERR_REQUEST,
      "tools", "unless tool_choice is \"none\": no format of calls" },
    { "tools as an object", CHAT, PLAIN_MODEL, "{\"tools\":{}," M "}", ERR_REQUEST, "tools",
      "must be a list" },
    { "a tool without a type", CHAT, PLAIN_MODEL, "{\"tools\":[{}],\"tool_choice\":\"none\"," M "}",
      ERR_REQUEST, "tools[0].type", "is required" },
    { "documents as a string", CHAT, PLAIN_MODEL, "{\"documents\":\"d\"," M "}", ERR_REQUEST,
      "documents", "must be a list" },
    { "chat_template_kwargs as a list", CHAT, PLAIN_MODEL, "{\"chat_template_kwargs\":[]," M "}",
      ERR_REQUEST, "chat_template_kwargs", "must be an object" },
    { "a variable named tokenize", CHAT, PLAIN_MODEL,
      "{\"chat_template_kwargs\":{\"a\":1,\"tokenize\":true}," M "}", ERR_REQUEST,
      "chat_template_kwargs.tokenize", "of the template's own" },
    { "a variable named messages", CHAT, PLAIN_MODEL,
      "{\"chat_template_kwargs\":{\"messages\":[]}," M "}", ERR_REQUEST,
      "chat_template_kwargs.messages", "of the template's own" },
    { "two ends of a template", CHAT, PLAIN_MODEL,
      "{\"add_generation_prompt\":true,\"continue_final_message\":true," M "}", ERR_REQUEST,
      "continue_final_message", "exclude each other" },
    { "echo in chat", CHAT, PLAIN_MODEL, "{\"echo\":true," M "}", ERR_REQUEST, "echo",
      "use /v1/completions" },
    { "logprobs as a number in chat", CHAT, PLAIN_MODEL, "{\"logprobs\":5," M "}", ERR_REQUEST,
      "logprobs", "got 5" },
    { "top_logprobs alone", CHAT, PLAIN_MODEL, "{\"top_logprobs\":2," M "}", ERR_REQUEST,
      "top_logprobs", "needs logprobs" },
    { "top_logprobs 21", CHAT, PLAIN_MODEL, "{\"logprobs\":true,\"top_logprobs\":21," M "}",
      ERR_REQUEST, "top_logprobs", "from 0 to 20, got 21" },
    { "chat without a tokenizer", CHAT, NO_TOKENIZER, "{" M "}", ERR_REQUEST, "messages",
      "tokenizer.json is missing" },
    { "chat without a template", CHAT, NO_CHAT, "{" M "}", ERR_REQUEST, "messages",
      "chat_template.jinja is missing" },

    /* completions */
    { "no prompt", COMPLETION, PLAIN_MODEL, "{}", ERR_REQUEST, "prompt", "is required" },
    { "prompt as a number", COMPLETION, PLAIN_MODEL, "{\"prompt\":5}", ERR_REQUEST, "prompt",
      "must be a string, a list" },
    { "prompt as an object", COMPLETION, PLAIN_MODEL, "{\"prompt\":{}}", ERR_REQUEST, "prompt",
      "must be a string, a list" },
    { "an empty list", COMPLETION, PLAIN_MODEL, "{\"prompt\":[]}", ERR_REQUEST, "prompt",
      "at least one token id" },
    { "an empty list in a list", COMPLETION, PLAIN_MODEL, "{\"prompt\":[[1],[]]}", ERR_REQUEST,
      "prompt[1]", "at least one token id" },
    { "text, then ids", COMPLETION, PLAIN_MODEL, "{\"prompt\":[\"a\",[1]]}", ERR_REQUEST,
      "prompt[1]", "must be a string like the first" },
    { "ids, then text", COMPLETION, PLAIN_MODEL, "{\"prompt\":[[1],\"a\"]}", ERR_REQUEST,
      "prompt[1]", "must be a list of token ids like the first" },
    { "an id, then text", COMPLETION, PLAIN_MODEL, "{\"prompt\":[1,\"a\"]}", ERR_REQUEST,
      "prompt[1]", "integer" },
    { "an id of the vocabulary's size", COMPLETION, PLAIN_MODEL, "{\"prompt\":[[1,1000]]}",
      ERR_REQUEST, "prompt[0][1]", "from 0 to 999, got 1000" },
    { "a negative id", COMPLETION, PLAIN_MODEL, "{\"prompt\":[-1]}", ERR_REQUEST, "prompt[0]",
      "got -1" },
    { "a null in a list", COMPLETION, PLAIN_MODEL, "{\"prompt\":[null]}", ERR_REQUEST, "prompt[0]",
      "" },
    { "text without a tokenizer", COMPLETION, NO_TOKENIZER, "{" P "}", ERR_REQUEST, "prompt",
      "tokenizer.json is missing" },
    { "texts without a tokenizer", COMPLETION, NO_TOKENIZER, "{\"prompt\":[\"a\"]}", ERR_REQUEST,
      "prompt[0]", "send token ids" },
    { "logprobs 21", COMPLETION, PLAIN_MODEL, "{\"logprobs\":21," P "}", ERR_REQUEST, "logprobs",
      "from 0 to 20" },
    { "top_logprobs in completions", COMPLETION, PLAIN_MODEL, "{\"top_logprobs\":2," P "}",
      ERR_REQUEST, "top_logprobs", "use logprobs" },
    { "messages in completions", COMPLETION, PLAIN_MODEL, "{" M "," P "}", ERR_REQUEST, "messages",
      "use prompt" },
    { "n times the prompts", COMPLETION, PLAIN_MODEL,
      "{\"n\":128,\"prompt\":[[1],[1],[1],[1],[1],[1],[1],[1],[1]]}", ERR_REQUEST, "n",
      "at most 1024, got 1152" },
};

static void check_refused(const char *name, bool ok, const struct err *err, enum err_code code,
                          const char *at, const char *says)
{
    if (ok)
        fail_msg("%s: accepted", name);
    if (err->code != code)
        fail_msg("%s: code %d, want %d: %s", name, (int)err->code, (int)code, err->text);
    if (strcmp(err->field, at) != 0)
        fail_msg("%s: field \"%s\", want \"%s\": %s", name, err->field, at, err->text);
    if (strstr(err->text, says) == NULL)
        fail_msg("%s: \"%s\" does not say \"%s\"", name, err->text, says);
}

static void test_invalid(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof INVALID / sizeof INVALID[0]; i++) {
        struct api_model model = model_of(INVALID[i].model);
        struct arena arena;
        struct generate g;
        struct err err = { 0 };
        arena_init(&arena, 1 << 20);
        cJSON *root = parse_json(INVALID[i].body);
        bool ok = parse(INVALID[i].endpoint, &g, root, &model, &arena, &err);
        check_refused(INVALID[i].name, ok, &err, INVALID[i].code, INVALID[i].field,
                      INVALID[i].says);
        json_free(root);
        arena_clear(&arena);
    }
}

/* Lists of a length: the last that is taken and the first that is not. */
/* Every field of one value, given an object. */
static void test_wrong_types(void **state)
{
    (void)state;
    static const char *const FIELDS[] = {
        "model",
        "stream",
        "n",
        "best_of",
        "max_tokens",
        "max_completion_tokens",
        "min_tokens",
        "ignore_eos",
        "echo",
        "return_token_ids",
        "skip_special_tokens",
        "include_stop_str_in_output",
        "add_special_tokens",
        "seed",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "typical_p",
        "repetition_penalty",
        "repeat_penalty",
        "presence_penalty",
        "frequency_penalty",
        "cache_salt",
        "priority",
        "request_id",
        "cache_prompt",
        "repeat_last_n",
        "dry_multiplier",
        "dry_base",
        "dry_allowed_length",
        "dry_penalty_last_n",
        "xtc_probability",
        "xtc_threshold",
        "mirostat",
        "mirostat_tau",
        "mirostat_eta",
        "dynatemp_range",
        "dynatemp_exponent",
        "top_n_sigma",
        "min_keep",
        "prompt_logprobs",
        "spaces_between_special_tokens",
        "return_tokens_as_token_ids",
        "timings_per_token",
        "return_progress",
        "t_max_predict_ms",
        "samplers",
        "stop",
        "stop_token_ids",
        "dry_sequence_breakers",
        "allowed_token_ids",
        "bad_words",
        "response_fields",
    };
    for (size_t i = 0; i < sizeof FIELDS / sizeof *FIELDS; i++) {
        struct api_model model = model_of(PLAIN_MODEL);
        struct generate g;
        struct arena arena;
        struct err err = { 0 };
        char body[128], says[64];
        arena_init(&arena, 1 << 20);
        snprintf(body, sizeof body, "{\"%s\":{\"x\":1}," P "}", FIELDS[i]);
        snprintf(says, sizeof says, "%s must be ", FIELDS[i]);
        cJSON *root = parse_json(body);
        bool ok = api_parse_completion(&g, root, &model, &arena, &err);
        check_refused(FIELDS[i], ok, &err, ERR_REQUEST, FIELDS[i], says);
        json_free(root);
        arena_clear(&arena);
    }
}

/* What is not done here, asked not to be done. */
static void test_neutral(void **state)
{
    (void)state;
    static const char *const BODIES[] = {
        "{\"n_indent\":0,\"n_cache_reuse\":0.0," P "}",
        "{\"adaptive_target\":-1,\"length_penalty\":1," P "}",
        "{\"functions\":[],\"suffix\":\"\",\"lora\":{}," P "}",
        "{\"use_beam_search\":false,\"parse_tool_calls\":false," P "}",
        "{\"grammar\":null,\"modalities\":null," P "}",
        "{\"response_format\":{\"type\":\"text\"}," P "}",
        "{\"request_id\":\"" LONG32 LONG32 LONG32 LONG32 "\"," P "}",
        "{\"stream\":true,\"response_fields\":[]," P "}",
    };
    static const char *const REFUSED[][2] = {
        { "{\"length_penalty\":2," P "}", "length_penalty" },
        { "{\"length_penalty\":\"1\"," P "}", "length_penalty" },
        { "{\"functions\":[1]," P "}", "functions" },
        { "{\"lora\":{\"a\":1}," P "}", "lora" },
        { "{\"suffix\":\"x\"," P "}", "suffix" },
        { "{\"suffix\":1," P "}", "suffix" },
        { "{\"use_beam_search\":true," P "}", "use_beam_search" },
    };
    for (size_t i = 0; i < sizeof BODIES / sizeof *BODIES + sizeof REFUSED / sizeof *REFUSED; i++) {
        const size_t n = sizeof BODIES / sizeof *BODIES;
        struct api_model model = model_of(PLAIN_MODEL);
        struct generate g;
        struct arena arena;
        struct err err = { 0 };
        arena_init(&arena, 1 << 20);
        cJSON *root = parse_json(i < n ? BODIES[i] : REFUSED[i - n][0]);
        bool ok = api_parse_completion(&g, root, &model, &arena, &err);
        if (i < n)
            assert_ok(ok, &err);
        else
            check_refused(REFUSED[i - n][0], ok, &err, ERR_REQUEST, REFUSED[i - n][1],
                          "is not supported by this server");
        json_free(root);
        arena_clear(&arena);
    }
}

static void test_list_limits(void **state)
{
    (void)state;
    static const struct {
        const char *before, *element, *after, *field;
        int32_t n_max;
        enum endpoint endpoint;
    } rows[] = {
        { "{" P ",\"stop\":[", "\"x\"", "]}", "stop", API_STOPS_MAX, COMPLETION },
        { "{" M ",\"stop_token_ids\":[", "3", "]}", "stop_token_ids", API_STOP_TOKENS_MAX, CHAT },
        { "{\"prompt\":[", "\"x\"", "]}", "prompt", API_PROMPTS_MAX, COMPLETION },
        { "{\"prompt\":[", "[7]", "]}", "prompt", API_PROMPTS_MAX, COMPLETION },
        { "{\"prompt\":[", "7", "]}", NULL, 5000, COMPLETION }, /* the context is not known here */
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        for (int32_t extra = 0; extra < 2; extra++) {
            struct buf body;
            struct arena arena;
            struct generate g;
            struct err err = { 0 };
            buf_init(&body, 1 << 20);
            arena_init(&arena, 1 << 20);
            buf_puts(&body, rows[i].before);
            for (int32_t k = 0; k < rows[i].n_max + extra; k++)
                buf_printf(&body, "%s%s", k ? "," : "", rows[i].element);
            buf_puts(&body, rows[i].after);
            cJSON *root = parse_json(buf_text(&body));
            bool ok = parse(rows[i].endpoint, &g, root, &PLAIN, &arena, &err);
            if (extra == 0 || rows[i].field == NULL)
                assert_ok(ok, &err);
            else
                check_refused(rows[i].before, ok, &err, ERR_REQUEST, rows[i].field, "at most");
            json_free(root);
            arena_clear(&arena);
            buf_clear(&body);
        }
    }
}

/* A stop string of 4096 bytes is taken, of 4097 not; 16384 biases are, 16385 not. */
static void test_byte_limits(void **state)
{
    (void)state;
    struct api_model model = PLAIN;
    model.vocab = 100000;
    for (int32_t extra = 0; extra < 2; extra++) {
        for (int32_t which = 0; which < 2; which++) {
            struct buf body;
            struct arena arena;
            struct generate g;
            struct err err = { 0 };
            buf_init(&body, 1 << 20);
            arena_init(&arena, 1 << 20);
            buf_puts(&body, which ? "{" P ",\"logit_bias\":{" : "{" P ",\"stop\":\"");
            for (int32_t k = 0; k < (which ? API_BIASES_MAX : API_STOP_BYTES_MAX) + extra; k++)
                if (which)
                    buf_printf(&body, "%s\"%d\":1", k ? "," : "", k);
                else
                    buf_putc(&body, 'x');
            buf_puts(&body, which ? "}}" : "\"}");
            cJSON *root = parse_json(buf_text(&body));
            bool ok = api_parse_completion(&g, root, &model, &arena, &err);
            if (extra == 0) {
                assert_ok(ok, &err);
                if (which)
                    assert_int_equal(g.n_biases, API_BIASES_MAX);
                else
                    assert_int_equal(g.stops[0].length, API_STOP_BYTES_MAX);
            } else {
                check_refused(which ? "biases" : "stop", ok, &err, ERR_REQUEST,
                              which ? "logit_bias" : "stop", which ? "at most 16384" : "got 4097");
            }
            json_free(root);
            arena_clear(&arena);
            buf_clear(&body);
        }
    }
}

enum small_route { TOKENIZE, DETOKENIZE, APPLY_TEMPLATE };
static bool parse_small(enum small_route route, cJSON *root, const struct api_model *model,
                        struct arena *arena, struct err *err)
{
    struct tokenize_request tokenize;
    struct detokenize_request detokenize;
    struct generate generate;
    switch (route) {
    case TOKENIZE:
        return api_parse_tokenize(&tokenize, root, model, arena, err);
    case DETOKENIZE:
        return api_parse_detokenize(&detokenize, root, model, arena, err);
    case APPLY_TEMPLATE:
        return api_parse_apply_template(&generate, root, model, arena, err);
    }
    return false;
}

static void test_small_refusals(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum small_route route;
        enum which model;
        const char *body;
        enum err_code code;
        const char *field, *says;
    } rows[] = {
        { "not an object", TOKENIZE, PLAIN_MODEL, "[]", ERR_REQUEST, "", "a JSON object" },
        { "nothing", TOKENIZE, PLAIN_MODEL, "{}", ERR_REQUEST, "prompt", "is required" },
        { "a list of texts", TOKENIZE, PLAIN_MODEL, "{\"prompt\":[\"a\"]}", ERR_REQUEST, "prompt",
          "must be a string" },
        { "content by number", TOKENIZE, PLAIN_MODEL, "{\"content\":1}", ERR_REQUEST, "content",
          "must be a string" },
        { "a flag by number", TOKENIZE, PLAIN_MODEL, "{\"content\":\"\",\"with_pieces\":1}",
          ERR_REQUEST, "with_pieces", "got 1" },
        { "special tokens in words", TOKENIZE, PLAIN_MODEL,
          "{\"content\":\"\",\"add_special_tokens\":\"no\"}", ERR_REQUEST, "add_special_tokens",
          "must be true or false" },
        { "the same by its other name", TOKENIZE, PLAIN_MODEL,
          "{\"content\":\"\",\"add_special\":\"no\"}", ERR_REQUEST, "add_special",
          "must be true or false" },
        { "parsing in words", TOKENIZE, PLAIN_MODEL, "{\"content\":\"\",\"parse_special\":\"no\"}",
          ERR_REQUEST, "parse_special", "must be true or false" },
        { "texts in words", TOKENIZE, PLAIN_MODEL,
          "{\"content\":\"\",\"return_token_strs\":\"no\"}", ERR_REQUEST, "return_token_strs",
          "must be true or false" },
        { "a model by number", APPLY_TEMPLATE, PLAIN_MODEL, "{\"model\":1," M "}", ERR_REQUEST,
          "model", "must be a string" },
        { "bad messages", TOKENIZE, PLAIN_MODEL, "{\"messages\":[{}]}", ERR_REQUEST,
          "messages[0].role", "is required" },
        { "another model", TOKENIZE, PLAIN_MODEL, "{\"model\":\"x\",\"prompt\":\"a\"}",
          ERR_NOT_FOUND, "model", "does not exist" },
        { "no tokenizer", TOKENIZE, NO_TOKENIZER, "{\"prompt\":\"a\"}", ERR_REQUEST, "",
          "tokenizer.json is missing" },
        { "messages without a template", TOKENIZE, NO_CHAT, "{" M "}", ERR_REQUEST, "messages",
          "chat_template.jinja is missing" },
        { "not an object", DETOKENIZE, PLAIN_MODEL, "5", ERR_REQUEST, "", "a JSON object" },
        { "no tokens", DETOKENIZE, PLAIN_MODEL, "{}", ERR_REQUEST, "tokens", "is required" },
        { "tokens as text", DETOKENIZE, PLAIN_MODEL, "{\"tokens\":\"1 2\"}", ERR_REQUEST, "tokens",
          "must be a list" },
        { "a token out of the vocabulary", DETOKENIZE, PLAIN_MODEL, "{\"tokens\":[0,1000]}",
          ERR_REQUEST, "tokens[1]", "got 1000" },
        { "half a token", DETOKENIZE, PLAIN_MODEL, "{\"tokens\":[0.5]}", ERR_REQUEST, "tokens[0]",
          "got 0.5" },
        { "another model", DETOKENIZE, PLAIN_MODEL, "{\"model\":\"x\",\"tokens\":[]}",
          ERR_NOT_FOUND, "model", "does not exist" },
        { "no tokenizer", DETOKENIZE, NO_TOKENIZER, "{\"tokens\":[1]}", ERR_REQUEST, "",
          "no tokenizer" },
        { "not an object", APPLY_TEMPLATE, PLAIN_MODEL, "null", ERR_REQUEST, "", "a JSON object" },
        { "no messages", APPLY_TEMPLATE, PLAIN_MODEL, "{}", ERR_REQUEST, "messages",
          "is required" },
        { "two ends", APPLY_TEMPLATE, PLAIN_MODEL,
          "{" M ",\"continue_final_message\":true,\"add_generation_prompt\":true}", ERR_REQUEST,
          "continue_final_message", "exclude" },
        { "no template", APPLY_TEMPLATE, NO_CHAT, "{" M "}", ERR_REQUEST, "messages",
          "chat_template.jinja is missing" },
        { "no tokenizer", APPLY_TEMPLATE, NO_TOKENIZER, "{" M "}", ERR_REQUEST, "",
          "no tokenizer" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct api_model model = model_of(rows[i].model);
        struct arena arena;
        struct err err = { 0 };
        arena_init(&arena, 1 << 20);
        cJSON *root = parse_json(rows[i].body);
        bool ok = parse_small(rows[i].route, root, &model, &arena, &err);
        check_refused(rows[i].name, ok, &err, rows[i].code, rows[i].field, rows[i].says);
        json_free(root);
        arena_clear(&arena);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_invalid),     cmocka_unit_test(test_wrong_types),
        cmocka_unit_test(test_neutral),     cmocka_unit_test(test_list_limits),
        cmocka_unit_test(test_byte_limits), cmocka_unit_test(test_small_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
