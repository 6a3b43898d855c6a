/* What does not belong to a replica: the version, and words for statuses. */

#include "dovetail.h"

#define TEXT2(x) #x
#define TEXT(x) TEXT2(x)

const char *dovetail_version(void)
{
	return TEXT(DOVETAIL_VERSION_MAJOR) "." TEXT(DOVETAIL_VERSION_MINOR) "." TEXT(DOVETAIL_VERSION_PATCH);
}

const char *dovetail_status_name(enum dovetail_status status)
{
	static const char *const names[] = {
		[DOVETAIL_OK] = "ok", [DOVETAIL_NOT_FOUND] = "not found", [DOVETAIL_INVALID] = "invalid",
		[DOVETAIL_LIMIT] = "limit", [DOVETAIL_BUSY] = "busy", [DOVETAIL_REPLICA] = "replica",
		[DOVETAIL_SYSTEM] = "system", [DOVETAIL_NETWORK] = "network", [DOVETAIL_TLS] = "tls",
		[DOVETAIL_LOGIN] = "login", [DOVETAIL_UNSUPPORTED] = "unsupported", [DOVETAIL_PROTOCOL] = "protocol",
		[DOVETAIL_REFUSED] = "refused", [DOVETAIL_LOCKED] = "locked", [DOVETAIL_WRONG_KEY] = "wrong key",
		[DOVETAIL_DAMAGED] = "damaged", [DOVETAIL_MASS_REMOVAL] = "mass removal", [DOVETAIL_STOPPED] = "stopped",
	};

	if ((unsigned int)status >= sizeof(names) / sizeof(names[0]))
		return "unknown";
	return names[status];
}
