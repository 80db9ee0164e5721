/* nbd-protocol.h: the numbers of the NBD protocol, and nothing else.
 *
 * Source: the protocol description of the NBD project (doc/proto.md), section
 * names are given at each group. All integers are big endian on the wire.
 * Lists of numbers that go over the wire are X-macros: names can be made from them where they are wanted.
 */
#ifndef TB4_NBD_PROTOCOL_H
#define TB4_NBD_PROTOCOL_H

#include <stdint.h>

/* Magics */
#define NBD_MAGIC UINT64_C(0x4e42444d41474943)               /* "NBDMAGIC" */
#define NBD_OPTION_MAGIC UINT64_C(0x49484156454f5054)        /* "IHAVEOPT" */
#define NBD_REPLY_OPTION_MAGIC UINT64_C(0x0003e889045565a9)
#define NBD_REQUEST_MAGIC UINT32_C(0x25609513)
#define NBD_EXTENDED_REQUEST_MAGIC UINT32_C(0x21e41c71)
#define NBD_SIMPLE_REPLY_MAGIC UINT32_C(0x67446698)
#define NBD_STRUCTURED_REPLY_MAGIC UINT32_C(0x668e33ef)
#define NBD_EXTENDED_REPLY_MAGIC UINT32_C(0x6e8a278c)

/* Handshake flags: server, then client */
enum {
	NBD_FLAG_FIXED_NEWSTYLE = 1 << 0,
	NBD_FLAG_NO_ZEROES = 1 << 1,
	NBD_FLAG_C_FIXED_NEWSTYLE = 1 << 0,
	NBD_FLAG_C_NO_ZEROES = 1 << 1,
};

/* Transmission flags */
enum {
	NBD_FLAG_HAS_FLAGS = 1 << 0,
	NBD_FLAG_READ_ONLY = 1 << 1,
	NBD_FLAG_SEND_FLUSH = 1 << 2,
	NBD_FLAG_SEND_FUA = 1 << 3,
	NBD_FLAG_ROTATIONAL = 1 << 4,
	NBD_FLAG_SEND_TRIM = 1 << 5,
	NBD_FLAG_SEND_WRITE_ZEROES = 1 << 6,
	NBD_FLAG_SEND_DF = 1 << 7,
	NBD_FLAG_CAN_MULTI_CONN = 1 << 8,
	NBD_FLAG_SEND_RESIZE = 1 << 9,
	NBD_FLAG_SEND_CACHE = 1 << 10,
	NBD_FLAG_SEND_FAST_ZERO = 1 << 11,
	NBD_FLAG_BLOCK_STATUS_PAYLOAD = 1 << 12,
};

/* Option types */
#define NBD_OPTIONS(X)             \
	X(NBD_OPT_EXPORT_NAME, 1)      \
	X(NBD_OPT_ABORT, 2)            \
	X(NBD_OPT_LIST, 3)             \
	X(NBD_OPT_PEEK_EXPORT, 4)      \
	X(NBD_OPT_STARTTLS, 5)         \
	X(NBD_OPT_INFO, 6)             \
	X(NBD_OPT_GO, 7)               \
	X(NBD_OPT_STRUCTURED_REPLY, 8) \
	X(NBD_OPT_LIST_META_CONTEXT, 9) \
	X(NBD_OPT_SET_META_CONTEXT, 10) \
	X(NBD_OPT_EXTENDED_HEADERS, 11)

/* Option reply types; errors have the top bit set */
#define NBD_REP_ERR(n) (UINT32_C(0x80000000) | (n))
#define NBD_OPTION_REPLIES(X)                    \
	X(NBD_REP_ACK, 1)                            \
	X(NBD_REP_SERVER, 2)                         \
	X(NBD_REP_INFO, 3)                           \
	X(NBD_REP_META_CONTEXT, 4)                   \
	X(NBD_REP_ERR_UNSUP, NBD_REP_ERR(1))         \
	X(NBD_REP_ERR_POLICY, NBD_REP_ERR(2))        \
	X(NBD_REP_ERR_INVALID, NBD_REP_ERR(3))       \
	X(NBD_REP_ERR_PLATFORM, NBD_REP_ERR(4))      \
	X(NBD_REP_ERR_TLS_REQD, NBD_REP_ERR(5))      \
	X(NBD_REP_ERR_UNKNOWN, NBD_REP_ERR(6))       \
	X(NBD_REP_ERR_SHUTDOWN, NBD_REP_ERR(7))      \
	X(NBD_REP_ERR_BLOCK_SIZE_REQD, NBD_REP_ERR(8)) \
	X(NBD_REP_ERR_TOO_BIG, NBD_REP_ERR(9))       \
	X(NBD_REP_ERR_EXT_HEADER_REQD, NBD_REP_ERR(10))

/* Information types of NBD_OPT_INFO and NBD_OPT_GO */
enum {
	NBD_INFO_EXPORT = 0,
	NBD_INFO_NAME = 1,
	NBD_INFO_DESCRIPTION = 2,
	NBD_INFO_BLOCK_SIZE = 3,
};

/* Request types */
#define NBD_COMMANDS(X)       \
	X(NBD_CMD_READ, 0)        \
	X(NBD_CMD_WRITE, 1)       \
	X(NBD_CMD_DISC, 2)        \
	X(NBD_CMD_FLUSH, 3)       \
	X(NBD_CMD_TRIM, 4)        \
	X(NBD_CMD_CACHE, 5)       \
	X(NBD_CMD_WRITE_ZEROES, 6) \
	X(NBD_CMD_BLOCK_STATUS, 7)

/* Command flags */
enum {
	NBD_CMD_FLAG_FUA = 1 << 0,
	NBD_CMD_FLAG_NO_HOLE = 1 << 1,
	NBD_CMD_FLAG_DF = 1 << 2,
	NBD_CMD_FLAG_REQ_ONE = 1 << 3,
	NBD_CMD_FLAG_FAST_ZERO = 1 << 4,
	NBD_CMD_FLAG_PAYLOAD_LEN = 1 << 5,
};

/* Structured reply flags and types */
enum { NBD_REPLY_FLAG_DONE = 1 << 0 };
enum {
	NBD_REPLY_TYPE_NONE = 0,
	NBD_REPLY_TYPE_OFFSET_DATA = 1,
	NBD_REPLY_TYPE_OFFSET_HOLE = 2,
	NBD_REPLY_TYPE_BLOCK_STATUS = 5,
	NBD_REPLY_TYPE_BLOCK_STATUS_EXT = 6,
	NBD_REPLY_TYPE_ERROR = (1 << 15) + 1,
	NBD_REPLY_TYPE_ERROR_OFFSET = (1 << 15) + 2,
};

/* Error values */
#define NBD_ERRORS(X)      \
	X(NBD_SUCCESS, 0)      \
	X(NBD_EPERM, 1)        \
	X(NBD_EIO, 5)          \
	X(NBD_ENOMEM, 12)      \
	X(NBD_EINVAL, 22)      \
	X(NBD_ENOSPC, 28)      \
	X(NBD_EOVERFLOW, 75)   \
	X(NBD_ENOTSUP, 95)     \
	X(NBD_ESHUTDOWN, 108)

/* The base:allocation metadata context */
enum { NBD_STATE_HOLE = 1 << 0, NBD_STATE_ZERO = 1 << 1 };

#define NBD_ENUM_ENTRY(name, value) name = (value),
#define NBD_U32_CONSTANT(name, value) static const uint32_t name = (value);
enum { NBD_OPTIONS(NBD_ENUM_ENTRY) };
enum { NBD_COMMANDS(NBD_ENUM_ENTRY) };
enum { NBD_ERRORS(NBD_ENUM_ENTRY) };
enum nbd_option_reply_type { NBD_OPTION_REPLIES(NBD_ENUM_ENTRY) };

/* Sizes of the fixed parts, in bytes */
enum {
	NBD_OPTION_HEADER_SIZE = 16,
	NBD_OPTION_REPLY_HEADER_SIZE = 20,
	NBD_REQUEST_SIZE = 28,
	NBD_EXTENDED_REQUEST_SIZE = 32,
	NBD_SIMPLE_REPLY_SIZE = 16,
	NBD_STRUCTURED_REPLY_SIZE = 20,
	NBD_EXTENDED_REPLY_SIZE = 32,
	NBD_MAX_STRING = 4096,
};

#endif
