/* fuzz-handshake: any bytes from the first one on. */
#include "session.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	session_run(&(struct session_piece){ data, size }, 1);
	return 0;
}
