/* Prints the test vectors of docs/encryption.md as JSON: all that is random is 0, 1, 2 ... 255, 0 ... in the order in which it
   is drawn. Run by test_crypt_vectors.py, which compares them with the ones that are kept (crypt-vectors.json) and reads these
   by code of its own. */

#include "crypt-test.h"

#include <fcntl.h>
#include <unistd.h>

static void give_up(const char *what, const char *error)
{
	fprintf(stderr, "crypt-vectors: %s: %s\n", what, error != NULL ? error : "");
	exit(1);
}

static void ring_print(const char *title, struct crypt_ring *ring, const struct crypt_env *env)
{
	const char *error = NULL;
	size_t size;
	void *data;

	if (crypt_ring_write(ring, env, &data, &size, &error) != DOVETAIL_OK)
		give_up(title, error);
	printf("  \"%s\": \"%.*s\",\n", title, (int)size, (const char *)data);
	free(data);
}

static void value_print(const struct crypt_ring *ring, const struct crypt_env *env, const char *name, const char *text,
			bool last)
{
	struct crypt_value value = { .device = "deviceAB", .counter = 1700000000000, .name = name, .data = text,
		.size = strlen(text) };
	const char *error = NULL;
	size_t size;
	char *wire;
	void *data;

	if (crypt_name_to_wire(ring, name, &wire, &error) != DOVETAIL_OK ||
	    crypt_value_seal(ring, wire, &value, env, &data, &size, &error) != DOVETAIL_OK)
		give_up(name, error);
	printf("    {\"name\": \"%s\", \"value\": \"%s\", \"wire_name\": \"%s\",\n     \"wire_value\": \"%.*s\"}%s\n", name, text,
	       wire, (int)size, (const char *)data, last ? "" : ",");
	free(wire);
	free(data);
}

int main(int argc, char **argv)
{
	const struct dovetail_secret passphrase = test_passphrase("correct horse battery staple");
	struct dovetail_secret file = { .key_file = argc == 2 ? argv[1] : NULL };
	/* the real limits, and as little as they allow */
	struct crypt_env env = { .passes_min = 3, .passes_max = 12, .kib_min = 64 * 1024, .kib_max = 1024 * 1024, .passes = 3,
		.kib = 64 * 1024, .random = test_random };
	struct crypt_ring *ring;
	const char *error = NULL;
	uint8_t next = 0;
	char text[2 * 300 + 1];
	size_t i;

	env.context = &next;
	if (argc != 2)
		give_up("one argument", "a key file");
	if (crypt_ring_new(SUBTREE, true, &env, &ring, &error) != DOVETAIL_OK ||
	    crypt_ring_slot_add(ring, "first", &passphrase, &env, &error) != DOVETAIL_OK ||
	    crypt_ring_slot_add(ring, "second", &file, &env, &error) != DOVETAIL_OK)
		give_up("ring", error);
	printf("{\n  \"subtree\": \"%s\",\n  \"passphrase\": \"correct horse battery staple\",\n", SUBTREE);
	ring_print("ring", ring, &env);
	printf("  \"values\": [\n");
	value_print(ring, &env, SUBTREE, "", false);
	value_print(ring, &env, SUBTREE "/todo", "buy milk", false);
	value_print(ring, &env, SUBTREE "/work/plan", "", false);
	for (i = 0; i < sizeof(text) - 1; i++)
		text[i] = 'a' + i % 26;
	text[i] = '\0';
	value_print(ring, &env, SUBTREE "/work/plan", text, true);
	printf("  ],\n");
	if (crypt_ring_rotate(ring, "third", &file, &env, &error) != DOVETAIL_OK)
		give_up("rotation", error);
	ring_print("ring_rotated", ring, &env);
	printf("  \"values_rotated\": [\n");
	value_print(ring, &env, SUBTREE "/todo", "buy bread", true);
	printf("  ]\n}\n");
	crypt_ring_free(ring);
	return 0;
}
