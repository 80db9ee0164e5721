#include "integrity.h"

#include <errno.h>
#include <gcrypt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "block-hash.h"

enum {
	NONCE_SIZE = 12,
	NONCES = 256 / NONCE_SIZE, /* as many as the kernel gives in one piece, whatever happens */
};

struct integrity {
	size_t block_size;
	gcry_cipher_hd_t cipher; /* NULL: plain */
	uint8_t *scratch; /* block_size */
};

/* The nonce is in context->encryption. */
static int encrypt(const struct integrity *integrity, const void *block, void *sealed,
	struct crucible_block_context *context)
{
	struct crucible_encryption *encryption = &context->encryption;
	size_t size = integrity->block_size;
	memmove(sealed, block, size);
	if (gcry_cipher_reset(integrity->cipher) ||
		gcry_cipher_setiv(integrity->cipher, encryption->nonce, sizeof encryption->nonce) ||
		gcry_cipher_encrypt(integrity->cipher, sealed, size, NULL, 0) ||
		gcry_cipher_gettag(integrity->cipher, encryption->tag, sizeof encryption->tag))
		return -EIO;
	context->is_encrypted = true;
	context->hash = block_hash(encryption, sealed, size);
	return 0;
}

static int decrypt(const struct integrity *integrity, const struct crucible_encryption *encryption,
	const void *block, void *plain)
{
	size_t size = integrity->block_size;
	memcpy(plain, block, size);
	if (gcry_cipher_reset(integrity->cipher) ||
		gcry_cipher_setiv(integrity->cipher, encryption->nonce, sizeof encryption->nonce) ||
		gcry_cipher_set_decryption_tag(integrity->cipher, encryption->tag, sizeof encryption->tag) ||
		gcry_cipher_decrypt(integrity->cipher, plain, size, NULL, 0))
		return -EBADMSG;
	return 0;
}

static int draw_nonces(struct crucible_block_context *contexts, size_t count)
{
	uint8_t nonces[NONCES * NONCE_SIZE];
	size_t length = count * NONCE_SIZE;
	if (getrandom(nonces, length, 0) != (ssize_t)length)
		return -EIO;
	for (size_t i = 0; i < count; i++)
		memcpy(contexts[i].encryption.nonce, nonces + i * NONCE_SIZE, NONCE_SIZE);
	return 0;
}

int integrity_seal(struct integrity *integrity, const void *data, size_t count, void *sealed,
	struct crucible_block_context *contexts)
{
	const uint8_t *block = data;
	uint8_t *out = sealed;
	size_t size = integrity->block_size;
	int status = 0;
	for (size_t i = 0; i < count && status == 0; i++, block += size, out += size) {
		if (integrity->cipher) {
			if (i % NONCES == 0)
				status = draw_nonces(contexts + i, count - i < NONCES ? count - i : NONCES);
			if (status == 0)
				status = encrypt(integrity, block, out, &contexts[i]);
			continue;
		}
		contexts[i] = (struct crucible_block_context){ .hash = block_hash(NULL, block, size) };
		if (out != block)
			memcpy(out, block, size);
	}
	return status;
}

static bool is_zero(const uint8_t *bytes, size_t length)
{
	return bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0;
}

static int take_block(const struct integrity *integrity, const struct crucible_read_context *context,
	const uint8_t *block, uint8_t *plain)
{
	size_t size = integrity->block_size;
	bool is_good = false;
	switch (context->kind) {
	case CRUCIBLE_BLOCK_EMPTY:
		is_good = is_zero(block, size);
		break;
	case CRUCIBLE_BLOCK_UNENCRYPTED:
		is_good = !integrity->cipher && context->hash == block_hash(NULL, block, size);
		break;
	case CRUCIBLE_BLOCK_ENCRYPTED:
		return integrity->cipher ? decrypt(integrity, &context->encryption, block, plain) : -EBADMSG;
	}
	if (is_good)
		memcpy(plain, block, size);
	return is_good ? 0 : -EBADMSG;
}

int integrity_check(struct integrity *integrity, const struct crucible_read_context *context, const void *block)
{
	return take_block(integrity, context, block, integrity->scratch);
}

bool integrity_is_zeros(struct integrity *integrity, const struct crucible_read_context *context, const void *block)
{
	const uint8_t *plain = integrity->scratch;
	return take_block(integrity, context, block, integrity->scratch) == 0 && plain[0] == 0 &&
		memcmp(plain, plain + 1, integrity->block_size - 1) == 0;
}

int integrity_take(struct integrity *integrity, const struct crucible_message *response, void *buffer)
{
	struct crucible_read_contexts rest = response->read_response.contexts;
	struct crucible_read_context context;
	const uint8_t *block = response->read_response.data.bytes;
	uint8_t *plain = buffer;
	for (; crucible_next_read_context(&rest, &context); block += integrity->block_size) {
		int status = take_block(integrity, &context, block, plain);
		if (status < 0)
			return status;
		plain += integrity->block_size;
	}
	return 0;
}

bool integrity_encrypts(const struct integrity *integrity)
{
	return integrity->cipher;
}

static bool set_key(struct integrity *integrity, const void *key)
{
	return gcry_cipher_open(&integrity->cipher, GCRY_CIPHER_AES256, GCRY_CIPHER_MODE_GCM_SIV, 0) == 0 &&
		gcry_cipher_setkey(integrity->cipher, key, INTEGRITY_KEY_SIZE) == 0;
}

/* Known answers of the specification. */
static bool self_test(void)
{
	static const uint8_t expected_tag[16] = { 0x5d, 0xfc, 0xb9, 0x60, 0xd7, 0x13, 0xae, 0x7c, 0xc6, 0x79, 0x99, 0xba,
		0x4b, 0x49, 0x86, 0xbc };
	uint8_t zeros[512] = { 0 }, key[INTEGRITY_KEY_SIZE];
	struct crucible_block_context context = { .hash = 0 };
	struct integrity test = { .block_size = sizeof zeros };
	if (block_hash(NULL, zeros, sizeof zeros) != UINT64_C(0x8bbf7f68e8c3b87c))
		return false;
	for (uint8_t i = 0; i < sizeof key; i++)
		key[i] = i;
	memcpy(context.encryption.nonce, key, sizeof context.encryption.nonce);
	bool passed = set_key(&test, key) && encrypt(&test, zeros, zeros, &context) == 0 &&
		context.hash == UINT64_C(0x83c9b4e1dd363c27) &&
		memcmp(context.encryption.tag, expected_tag, sizeof expected_tag) == 0;
	gcry_cipher_close(test.cipher);
	return passed;
}

struct integrity *integrity_open(const void *key, size_t block_size)
{
	if (!gcry_control(GCRYCTL_INITIALIZATION_FINISHED_P)) {
		gcry_check_version(NULL);
		gcry_control(GCRYCTL_DISABLE_SECMEM, 0);
		gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
	}
	struct integrity *integrity = self_test() ? calloc(1, sizeof *integrity) : NULL;
	if (!integrity)
		return NULL;
	integrity->block_size = block_size;
	integrity->scratch = malloc(block_size);
	if (!integrity->scratch || (key && !set_key(integrity, key))) {
		integrity_close(integrity);
		return NULL;
	}
	return integrity;
}

void integrity_close(struct integrity *integrity)
{
	if (!integrity)
		return;
	gcry_cipher_close(integrity->cipher);
	free(integrity->scratch);
	free(integrity);
}
