/* fuzz-handshake: any bytes from the first one on: to a server in clear text, and to one that demands TLS. To the latter what
 * follows the first STARTTLS goes only when that has been answered, so that it is taken for TLS. */
#include "session.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t starttls[] = { 'I', 'H', 'A', 'V', 'E', 'O', 'P', 'T', 0, 0, 0, 5, 0, 0, 0, 0 };
	const uint8_t *found = memmem(data, size, starttls, sizeof starttls);
	size_t first = found ? (size_t)(found - data) + sizeof starttls : size;
	session_run(&(struct session_piece){ data, size }, 1, false);
	session_run((struct session_piece[]){ { data, first }, { data + first, size - first } }, 2, true);
	return 0;
}
