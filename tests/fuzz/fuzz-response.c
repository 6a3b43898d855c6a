/* libFuzzer target for the parser of responses (src/client/response.h). The first octet of an input chooses limits and how the
   rest is cut into pieces; the callbacks have to be the same as for the rest in one piece, and in the promised order. */

#include "response-log.h"

#define FUZZ_SMALL_LIMITS 0x80

static int parse(const uint8_t *data, size_t size, const struct response_limits *limits, uint32_t seed, struct response_log *log)
{
	struct response_parser *parser = response_parser_new(limits, &response_log_handler, log);
	size_t part;
	uint8_t *piece;
	int ret = 0;

	if (parser == NULL)
		abort();
	log_octets(log, "", 0);
	while (size > 0 && ret == 0) {
		part = size;
		if (seed != 0) {
			seed = seed * 1664525 + 1013904223;
			part = (seed >> 16) % ((seed >> 28) + 1) + 1;
			if (part > size)
				part = size;
		}
		/* memory of its own, so that AddressSanitizer sees its end */
		piece = malloc(part);
		if (piece == NULL)
			abort();
		memcpy(piece, data, part);
		ret = response_parser_feed(parser, piece, part);
		free(piece);
		data += part;
		size -= part;
	}
	response_log_end(log, parser, ret);
	response_parser_free(parser);
	return ret;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct response_limits small = { .line = 64, .value = 32, .name = 16 };
	const struct response_limits *limits;
	struct response_log whole = { .text = NULL }, pieces = { .text = NULL };
	int ret;

	if (size == 0)
		return 0;
	limits = (data[0] & FUZZ_SMALL_LIMITS) != 0 ? &small : NULL;
	ret = parse(data + 1, size - 1, limits, 0, &whole);
	if (parse(data + 1, size - 1, limits, data[0] + 1, &pieces) != ret || whole.broken || pieces.broken ||
	    whole.used != pieces.used || memcmp(whole.text, pieces.text, whole.used) != 0)
		abort();
	free(whole.text);
	free(pieces.text);
	return 0;
}
