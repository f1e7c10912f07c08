/* JSON Schema, keyword by keyword: what is written, what is not, what is refused and with which
 * words. */
#include "tests/unit/grammar/grammars.h"

static const struct {
    const char *schema, *text;
    bool matches;
} TEXTS[] = {
    /* types */
    { "{\"type\":\"null\"}", "null", true },
    { "{\"type\":\"boolean\"}", "true", true },
    { "{\"type\":\"boolean\"}", "1", false },
    { "{\"type\":\"integer\"}", "-120", true },
    { "{\"type\":\"integer\"}", "-0", false },
    { "{\"type\":\"integer\"}", "01", false },
    { "{\"type\":\"integer\"}", "1.0", false },
    { "{\"type\":\"integer\"}", "1234567890123456", false }, /* over 15 digits */
    { "{\"type\":\"number\"}", "-0.5e+10", true },
    { "{\"type\":\"number\"}", ".5", false },
    { "{\"type\":\"number\"}", "1.", false },
    { "{\"type\":[\"string\",\"null\"]}", "null", true },
    { "{\"type\":[\"string\",\"null\"]}", "1", false },
    { "{}", "[{\"a\":[]},null,\"x\"]", true },
    { "true", "[1, 2]", true },
    { "{\"title\":\"T\",\"description\":\"d\",\"default\":1,\"x-any\":2}", "0", true },
    /* strings */
    { "{\"type\":\"string\"}", "\"a\\u00e9\\n\\ud83d\\ude00\xc3\xa9\"", true },
    { "{\"type\":\"string\"}", "\"\\ud83d\"", false },
    { "{\"type\":\"string\"}", "\"\\ude00\"", false },
    { "{\"type\":\"string\"}", "\"\\u0000\"", false },
    { "{\"type\":\"string\"}", "\"\n\"", false },
    { "{\"type\":\"string\"}", "\"\\x\"", false },
    { "{\"type\":\"string\"}", "\"\xff\"", false },
    { "{\"minLength\":2,\"maxLength\":3}", "\"\xf0\x9f\x98\x80\\n\"", true },
    { "{\"minLength\":2,\"maxLength\":3}", "\"\xf0\x9f\x98\x80\"", false },
    { "{\"minLength\":2,\"maxLength\":3}", "\"\\ud83d\\ude00\"", false },
    { "{\"maxLength\":0}", "\"\"", true },
    { "{\"pattern\":\"b\"}", "\"abc\"", true },
    { "{\"pattern\":\"b\"}", "\"ac\"", false },
    { "{\"pattern\":\"^b\"}", "\"ab\"", false },
    { "{\"pattern\":\"^(a|b)+$\"}", "\"abba\"", true },
    { "{\"pattern\":\"^.$\"}", "\"\\\"\"", true },
    { "{\"pattern\":\"^\\\\n$\"}", "\"\\n\"", true },
    { "{\"pattern\":\"^a/b$\"}", "\"a/b\"", true },
    { "{\"pattern\":\"^a+$\",\"minLength\":2,\"maxLength\":3}", "\"aaa\"", true },
    { "{\"pattern\":\"^a+$\",\"minLength\":2,\"maxLength\":3}", "\"a\"", false },
    { "{\"format\":\"date\"}", "\"2024-04-30\"", true },
    { "{\"format\":\"date\"}", "\"2024-04-31\"", false },
    { "{\"format\":\"date\"}", "\"2024-02-29\"", false },
    { "{\"format\":\"time\"}", "\"23:59:59.5+01:00\"", true },
    { "{\"format\":\"time\"}", "\"24:00:00Z\"", false },
    { "{\"format\":\"date-time\"}", "\"2024-12-31T00:00:00Z\"", true },
    { "{\"format\":\"uuid\"}", "\"123e4567-e89b-12d3-a456-426614174000\"", true },
    { "{\"format\":\"ipv4\"}", "\"255.0.10.1\"", true },
    { "{\"format\":\"ipv4\"}", "\"256.0.0.1\"", false },
    { "{\"format\":\"ipv6\"}", "\"fe80::1\"", true },
    { "{\"format\":\"email\"}", "\"a.b@example.com\"", true },
    { "{\"format\":\"uri\"}", "\"https://example.com/a?b=c#d\"", true },
    { "{\"format\":\"duration\"}", "\"P1DT2H\"", true },
    /* numbers */
    { "{\"type\":\"integer\",\"minimum\":10,\"maximum\":120}", "10", true },
    { "{\"type\":\"integer\",\"minimum\":10,\"maximum\":120}", "9", false },
    { "{\"type\":\"integer\",\"minimum\":10,\"maximum\":120}", "121", false },
    { "{\"type\":\"integer\",\"exclusiveMinimum\":10,\"exclusiveMaximum\":12}", "11", true },
    { "{\"type\":\"integer\",\"exclusiveMinimum\":10,\"exclusiveMaximum\":12}", "12", false },
    { "{\"type\":\"integer\",\"minimum\":-5.5}", "-5", true },
    { "{\"type\":\"integer\",\"minimum\":-5.5}", "-6", false },
    { "{\"type\":\"integer\",\"minimum\":100000000000000001}", "100000000000000000", false },
    { "{\"type\":\"integer\",\"minimum\":100000000000000001}", "100000000000000001", true },
    { "{\"minimum\":0.1}", "0.1", true },
    { "{\"minimum\":0.1}", "0.09", false },
    { "{\"exclusiveMinimum\":0.1}", "0.1", false },
    { "{\"exclusiveMinimum\":0.1}", "0.10000000000001", true },
    { "{\"maximum\":-2}", "-2.0", true },
    { "{\"maximum\":-2}", "-1.9", false },
    { "{\"type\":\"integer\",\"multipleOf\":12}", "-144", true },
    { "{\"type\":\"integer\",\"multipleOf\":12}", "0", true },
    { "{\"type\":\"integer\",\"multipleOf\":12}", "145", false },
    { "{\"allOf\":[{\"multipleOf\":4},{\"multipleOf\":6}]}", "12", true },
    { "{\"allOf\":[{\"multipleOf\":4},{\"multipleOf\":6}]}", "4", false },
    /* enum, const */
    { "{\"enum\":[\"a\",1,null,[1,{\"b\":\"\\u00e9\"}]]}", "[1,{\"b\":\"\xc3\xa9\"}]", true },
    { "{\"enum\":[\"a\",1],\"type\":\"string\"}", "1", false },
    { "{\"enum\":[1,5,9],\"minimum\":4,\"maximum\":6}", "5", true },
    { "{\"enum\":[1,5,9],\"minimum\":4,\"maximum\":6}", "9", false },
    { "{\"enum\":[\"a\",\"bb\"],\"minLength\":2}", "\"bb\"", true },
    { "{\"enum\":[\"a\",\"bb\"],\"minLength\":2}", "\"a\"", false },
    { "{\"const\":123456789012345678}", "123456789012345678", true },
    { "{\"const\":{}}", "{}", true },
    { "{\"allOf\":[{\"enum\":[1,2]},{\"enum\":[2,3]}]}", "2", true },
    { "{\"allOf\":[{\"enum\":[1,2]},{\"enum\":[2,3]}]}", "1", false },
    /* lists */
    { "{\"items\":{\"type\":\"integer\"}}", "[1, 2,\n  3]", true },
    { "{\"items\":{\"type\":\"integer\"}}", "[1,]", false },
    { "{\"items\":{\"type\":\"integer\"}}", "[1 ,2]", false }, /* a blank no one needs */
    { "{\"items\":{\"type\":\"integer\"}}", "[1,  2]", false },
    { "{\"minItems\":2,\"maxItems\":3}", "[1]", false },
    { "{\"minItems\":2,\"maxItems\":3}", "[1,\"a\",[]]", true },
    { "{\"minItems\":2,\"maxItems\":3}", "[1,2,3,4]", false },
    { "{\"maxItems\":0}", "[]", true },
    { "{\"prefixItems\":[{\"type\":\"integer\"},{\"type\":\"string\"}]}", "[1,\"a\"]", true },
    { "{\"prefixItems\":[{\"type\":\"integer\"},{\"type\":\"string\"}]}", "[1]", true },
    { "{\"prefixItems\":[{\"type\":\"integer\"},{\"type\":\"string\"}]}", "[1,2]", false },
    { "{\"prefixItems\":[{\"type\":\"integer\"}],\"items\":{\"type\":\"null\"}}", "[1,null,null]",
      true },
    { "{\"items\":false}", "[]", true },
    { "{\"items\":false}", "[1]", false },
    /* objects */
    { "{\"properties\":{\"a\":{},\"b\":{}}}", "{\"a\":1,\"b\":2}", true },
    { "{\"properties\":{\"a\":{},\"b\":{}}}", "{\"b\":2,\"a\":1}", false }, /* the schema's order */
    { "{\"properties\":{\"a\":{},\"b\":{}}}", "{\"b\":2}", true },
    { "{\"properties\":{\"a\":{},\"b\":{}}}", "{\"a\":1,\"c\":2}", false },
    { "{\"properties\":{\"a\":{}},\"required\":[\"z\"]}", "{\"a\":1,\"z\":null}", true },
    { "{\"properties\":{\"a\":{}},\"required\":[\"z\"]}", "{\"a\":1}", false },
    { "{\"properties\":{\"a\":{}},\"additionalProperties\":true}", "{\"a\":1,\"c\":2}", true },
    { "{\"properties\":{\"a\":{}},\"additionalProperties\":{\"type\":\"null\"}}", "{\"b\":null}",
      true },
    { "{\"properties\":{\"ab\":{}},\"additionalProperties\":{\"type\":\"null\"}}", "{\"ab\":1}",
      true },
    { "{\"properties\":{\"ab\":{}},\"additionalProperties\":{\"type\":\"null\"}}",
      "{\"\\u0061b\":null}", false },
    { "{\"properties\":{\"ab\":{}},\"additionalProperties\":{\"type\":\"null\"}}",
      "{\"a\":null,\"abc\":null}", true },
    { "{\"properties\":{\"a\\\"\\n\":{}},\"required\":[\"a\\\"\\n\"]}", "{\"a\\\"\\n\":1}", true },
    { "{\"type\":\"object\"}", "{\"x\":{\"y\":[]}}", true },
    { "{\"type\":\"object\",\"additionalProperties\":false}", "{}", true },
    { "{\"type\":\"object\",\"additionalProperties\":false}", "{\"a\":1}", false },
    { "{\"minProperties\":1,\"properties\":{\"a\":{},\"b\":{}}}", "{}", false },
    { "{\"minProperties\":1,\"properties\":{\"a\":{},\"b\":{}}}", "{\"b\":1}", true },
    { "{\"maxProperties\":1,\"properties\":{\"a\":{},\"b\":{}}}", "{\"a\":1,\"b\":1}", false },
    { "{\"maxProperties\":1,\"type\":\"object\"}", "{\"a\":1,\"b\":1}", false },
    { "{\"patternProperties\":{\"^S\":{\"type\":\"string\"}}}", "{\"S1\":\"a\"}", true },
    { "{\"patternProperties\":{\"^S\":{\"type\":\"string\"}}}", "{\"S1\":1}", false },
    { "{\"patternProperties\":{\"^S\":{\"type\":\"string\"}},\"additionalProperties\":{\"type\":"
      "\"null\"}}",
      "{\"S\":\"a\",\"T\":null}", true },
    { "{\"patternProperties\":{\"^S\":{\"minLength\":2}},\"properties\":{\"Sa\":{\"maxLength\":3}}"
      "}",
      "{\"Sa\":\"abcd\"}", false },
    { "{\"propertyNames\":{\"pattern\":\"^[a-z]+$\"},\"type\":\"object\"}", "{\"ab\":1}", true },
    { "{\"propertyNames\":{\"pattern\":\"^[a-z]+$\"},\"type\":\"object\"}", "{\"A\":1}", false },
    /* combinations */
    { "{\"anyOf\":[{\"type\":\"integer\"},{\"type\":\"string\",\"maxLength\":1}]}", "\"a\"", true },
    { "{\"anyOf\":[{\"type\":\"integer\"},{\"type\":\"string\",\"maxLength\":1}]}", "\"ab\"",
      false },
    { "{\"type\":\"integer\",\"anyOf\":[{\"minimum\":10},{\"maximum\":-10}]}", "-11", true },
    { "{\"type\":\"integer\",\"anyOf\":[{\"minimum\":10},{\"maximum\":-10}]}", "0", false },
    { "{\"oneOf\":[{\"type\":\"integer\"},{\"type\":\"null\"}]}", "null", true },
    { "{\"allOf\":[{\"properties\":{\"a\":{\"minimum\":1}}},{\"properties\":{\"a\":{\"maximum\":3}}"
      "}]}",
      "{\"a\":2}", true },
    { "{\"allOf\":[{\"properties\":{\"a\":{\"minimum\":1}}},{\"properties\":{\"a\":{\"maximum\":3}}"
      "}]}",
      "{\"a\":4}", false },
    { "{\"$ref\":\"#/$defs/a~1b\",\"$defs\":{\"a/b\":{\"const\":7}}}", "7", true },
    { "{\"$ref\":\"#/definitions/x\",\"definitions\":{\"x\":{\"const\":7}}}", "7", true },
    { "{\"properties\":{\"next\":{\"anyOf\":[{\"$ref\":\"#\"},{\"type\":\"null\"}]}},\"required\":"
      "[\"next\"]}",
      "{\"next\":{\"next\":{\"next\":null}}}", true },
    { "{\"$defs\":{\"t\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/t\"}}},\"$ref\":\"#/"
      "$defs/t\"}",
      "[[],[[]]]", true },
    { "{\"anyOf\":[{\"$ref\":\"#/$defs/"
      "a\"},{\"type\":\"null\"}],\"$defs\":{\"a\":{\"anyOf\":[{\"$ref\":"
      "\"#/$defs/b\"}]},\"b\":{\"const\":1}}}",
      "1", true },
};

static void test_texts(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof TEXTS / sizeof TEXTS[0]; i++) {
        struct grammar *grammar;
        struct err err;
        const char *schema = TEXTS[i].schema, *text = TEXTS[i].text;
        assert_ok(
            grammar_compile_schema(&grammar, schema, strlen(schema), NULL, &GRAMMAR_LIMITS, &err),
            &err);
        if (grammar_accepts(grammar, text, strlen(text)) != TEXTS[i].matches)
            fail_msg("%s on %s: want %d", schema, text, TEXTS[i].matches);
        grammar_close(grammar);
    }
}

static const struct {
    const char *schema, *says;
} REFUSED[] = {
    { "[]", "not an object" },
    { "{", "not valid JSON" },
    { "false", "matches no text" },
    { "{\"type\":\"text\"}", "type at #: want null" },
    { "{\"type\":5}", "type at #" },
    { "{\"type\":[]}", "matches no text" },
    { "{\"not\":{}}", "not at #: this keyword is not supported" },
    { "{\"properties\":{\"a\":{\"items\":{\"if\":{}}}}}",
      "if at #/properties/a/items: this keyword" },
    { "{\"anyOf\":[{},{\"minLenght\":1}]}", "minLenght at #/anyOf/1: this keyword" },
    { "{\"dependentRequired\":{}}", "dependentRequired" },
    { "{\"unevaluatedProperties\":false}", "unevaluatedProperties" },
    { "{\"contains\":{}}", "contains" },
    { "{\"uniqueItems\":true}", "uniqueItems" },
    { "{\"properties\":{\"a\":{\"$id\":\"x\"}}}", "$id at #/properties/a" },
    { "{\"$ref\":\"other.json\"}", "$ref at #: 'other.json' does not lie" },
    { "{\"$ref\":\"#/$defs/x\"}", "$ref at #: '#/$defs/x' is not in the schema" },
    { "{\"$ref\":5}", "$ref at #: want a string" },
    { "{\"minLength\":-1}", "minLength at #: want a count" },
    { "{\"maxLength\":1.5}", "maxLength at #: want a count" },
    { "{\"maxLength\":\"5\"}", "maxLength at #: want a count" },
    { "{\"maxLength\":2000000}", "repetition of 2000000" },
    { "{\"minItems\":\"1\"}", "minItems at #" },
    { "{\"minimum\":\"1\"}", "minimum at #: want a number" },
    { "{\"exclusiveMinimum\":true,\"minimum\":1}", "exclusiveMinimum at #: want a number" },
    { "{\"multipleOf\":0.01}", "multipleOf at #: want an integer" },
    { "{\"multipleOf\":0}", "multipleOf at #" },
    { "{\"enum\":[]}", "enum at #: want a list" },
    { "{\"enum\":5}", "enum at #: want a list" },
    { "{\"enum\":[{\"a\":1}],\"properties\":{\"a\":{}}}", "enum at #: a list or an object" },
    { "{\"pattern\":\"(\"}", "not closed" },
    { "{\"pattern\":\"(?=a)\"}", "lookahead" },
    { "{\"pattern\":5}", "pattern at #: want a string" },
    { "{\"format\":\"color\"}", "format at #: 'color' is not supported" },
    { "{\"properties\":[]}", "properties at #: want an object" },
    { "{\"properties\":{\"a\":5}}", "properties at #: want a schema" },
    { "{\"required\":\"a\"}", "required at #: want a list of names" },
    { "{\"required\":[1]}", "required at #: want a list of names" },
    { "{\"items\":[{}]}", "items at #: " },
    { "{\"prefixItems\":{}}", "prefixItems at #: want a list" },
    { "{\"anyOf\":[]}", "anyOf at #: want a list" },
    { "{\"anyOf\":{}}", "anyOf at #: want a list" },
    { "{\"allOf\":{}}", "allOf at #: want a list" },
    { "{\"allOf\":[5]}", "allOf at #: want a schema" },
    { "{\"oneOf\":[{\"type\":\"integer\"},{\"type\":\"number\"}]}", "branch 0 and branch 1" },
    { "{\"oneOf\":[{\"required\":[\"a\"]},{\"required\":[\"b\"]}]}", "branch 0 and branch 1" },
    { "{\"minProperties\":2,\"type\":\"object\"}", "minProperties at #: 2" },
    { "{\"propertyNames\":{\"enum\":[\"a\"]}}", "propertyNames at #" },
    { "{\"minLength\":5,\"maxLength\":3}", "matches no text" },
    { "{\"type\":\"integer\",\"minimum\":5,\"maximum\":4}", "matches no text" },
    { "{\"allOf\":[{\"type\":\"string\"},{\"type\":\"null\"}]}", "matches no text" },
    { "{\"pattern\":\"^a$\",\"minLength\":2}", "matches no text" },
    { "{\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}", "matches no text" },
    { "{\"anyOf\":[{\"$ref\":\"#\"},{\"type\":\"null\"}]}", "" },
    { "{\"properties\":{\"a\":false},\"required\":[\"a\"]}", "matches no text" },
};

static void test_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof REFUSED / sizeof REFUSED[0]; i++) {
        struct grammar *grammar;
        struct err err;
        const char *schema = REFUSED[i].schema;
        memset(&err, 0, sizeof err);
        if (grammar_compile_schema(&grammar, schema, strlen(schema), NULL, &GRAMMAR_LIMITS, &err))
            fail_msg("not refused: %s", schema);
        if (err.code != ERR_REQUEST || !strstr(err.text, REFUSED[i].says))
            fail_msg("%s: code %d, \"%s\", want \"%s\"", schema, (int)err.code, err.text,
                     REFUSED[i].says);
        assert_null(grammar);
    }
}

static void test_walks(void **state)
{
    static const char *const schemas[] = {
        "{}",
        "{\"properties\":{\"name\":{\"type\":\"string\"},\"age\":{\"type\":\"integer\",\"maximum\":"
        "150}},"
        "\"required\":[\"name\",\"age\"]}",
        "{\"items\":{\"enum\":[\"red\",\"green\",\"blue\"]},\"minItems\":1,\"maxItems\":4}",
        "{\"additionalProperties\":{\"maxLength\":40},\"properties\":{\"name\":{\"pattern\":\"a."
        "b\"}}}",
        "{\"type\":\"string\",\"minLength\":30,\"maxLength\":500}",
        "{\"$defs\":{\"t\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/t\"}}},\"$ref\":"
        "\"#/$defs/t\"}",
        "{\"type\":\"number\",\"minimum\":-1.5,\"exclusiveMaximum\":12.25}",
    };
    struct grammar_vocab *vocab = test_vocab(1 << 22), *small = test_vocab(0);
    (void)state;
    for (size_t i = 0; i < sizeof schemas / sizeof schemas[0]; i++)
        for (uint64_t seed = 0; seed < 4; seed++) {
            const struct grammar_json_options options = { seed > 1 };
            struct grammar *grammar;
            struct err err;
            assert_ok(grammar_compile_schema(&grammar, schemas[i], strlen(schemas[i]), &options,
                                             &GRAMMAR_LIMITS, &err),
                      &err);
            random_text(grammar, seed % 2 ? small : vocab, NULL, seed, 60, NULL, 0);
            grammar_close(grammar);
        }
    grammar_vocab_close(vocab);
    grammar_vocab_close(small);
}

/* Compact: no blanks at all; otherwise a bounded number of them. */
static void test_blanks(void **state)
{
    const struct grammar_json_options compact = { true };
    struct grammar *grammar;
    struct err err;
    (void)state;
    assert_ok(grammar_compile_json_object(&grammar, &compact, &GRAMMAR_LIMITS, &err), &err);
    assert_true(grammar_accepts(grammar, "{\"a\":[1,2]}", 11));
    assert_false(grammar_accepts(grammar, "{\"a\": [1,2]}", 12));
    grammar_close(grammar);
    assert_ok(grammar_compile_json_object(&grammar, NULL, &GRAMMAR_LIMITS, &err), &err);
    assert_true(grammar_accepts(grammar, "{\n    \"a\": [\n\t1, 2\n]\n}", 22));
    assert_false(grammar_accepts(grammar, "{\n\n}", 4));
    assert_false(grammar_accepts(grammar, " {}", 3));
    assert_false(grammar_accepts(grammar, "{} ", 3));
    assert_false(grammar_accepts(grammar, "[]", 2));
    grammar_close(grammar);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_texts),
                                        cmocka_unit_test(test_refused),
                                        cmocka_unit_test(test_walks),
                                        cmocka_unit_test(test_blanks) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
