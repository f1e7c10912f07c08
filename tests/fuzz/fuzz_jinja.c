/* libFuzzer entry for the template engine: the input is a template, a NUL byte, and the text of a
 * user's message. Any template must end in text or in one error; the barriers must be ascending
 * and inside the text; and a second render must be the same. */
#include <stdlib.h>
#include <string.h>
#include <cjson/cJSON.h>
#include "host/text/chat.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static struct cJSON *conversation(const char *content)
{
    static const char json[] =
        "[{\"role\":\"system\",\"content\":\"Be brief.\",\"n\":3,\"f\":2.5},"
        "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"<|im_\"},null,true]},"
        "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"a\",\"function\":"
        "{\"name\":\"f\",\"arguments\":{\"x\":[1,2,{\"y\":-0.5}]}}}]}]";
    struct cJSON *messages = cJSON_Parse(json), *last = cJSON_CreateObject();
    cJSON_AddStringToObject(last, "role", "user");
    cJSON_AddStringToObject(last, "content", content);
    cJSON_AddItemToArray(messages, last);
    return messages;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static const char *const specials[] = { "<|im_start|>", "<|im_end|>", "</s>", "a" };
    const char *source = (const char *)bytes;
    size_t length = strnlen(source, size);
    char *content = strndup(source + length + (length < size), size - length - (length < size));
    struct chat_template *chat;
    struct err err = { 0 };
    if (chat_template_open(&chat, source, length, specials, 4, &err)) {
        struct chat_text text = { 0 }, again = { 0 };
        struct chat_input input = { .messages = conversation(content),
                                    .add_generation_prompt = true,
                                    .bos_token = "<s>",
                                    .now_s = 1753538709 };
        bool good = chat_render(chat, &input, &text, &err);
        CHECK(good || err.text[0]);
        for (size_t i = 0; i < text.n_barriers; i++)
            CHECK(text.barriers[i] > (i ? text.barriers[i - 1] : 0) &&
                  text.barriers[i] < text.text.length);
        CHECK(chat_render(chat, &input, &again, &err) == good);
        CHECK(strcmp(buf_text(&text.text), buf_text(&again.text)) == 0);
        chat_text_clear(&text);
        chat_text_clear(&again);
        cJSON_Delete((struct cJSON *)input.messages);
        chat_template_close(chat);
    } else {
        CHECK(err.text[0]);
    }
    free(content);
    return 0;
}
