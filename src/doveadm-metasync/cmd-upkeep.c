/* doveadm metasync status, check, purge, new-epoch. A user who has no store gets
   none by these. */

#include "doveadm-metasync.h"

#include <dirent.h>
#include <sys/stat.h>
#include <time.h>

/* -- status ---------------------------------------------------------------- */

/* What the store's files take on the disk. */
static int
status_disk(struct metasync_cmd *cmd, const char *dir, uint64_t *bytes_r)
{
	DIR *dirp = opendir(dir);
	struct dirent *d;
	struct stat st;

	*bytes_r = 0;
	if (dirp == NULL) {
		i_error("opendir(%s) failed: %m", dir);
		return metasync_cmd_exit(cmd, EX_TEMPFAIL);
	}
	while ((d = readdir(dirp)) != NULL) {
		/* one that goes away meanwhile counts nothing */
		if (fstatat(dirfd(dirp), d->d_name, &st,
			    AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
			*bytes_r += st.st_blocks * (uint64_t)512;
	}
	(void)closedir(dirp);
	return 0;
}

static int
cmd_status_run(struct doveadm_mail_cmd_context *ctx, struct mail_user *user)
{
	struct metasync_cmd *cmd = (struct metasync_cmd *)ctx;
	struct store_state state;
	struct store_error error;
	struct store *store;
	uint64_t disk = 0;

	if (metasync_cmd_store_if_any(cmd, user, &store) < 0)
		return -1;
	i_zero(&state);
	if (store != NULL) {
		if (store_get_state(store, &state, &error) != STORE_OK)
			return metasync_cmd_failed(cmd, user, &error);
		if (status_disk(cmd, store_get_settings(store)->dir, &disk) < 0)
			return -1;
	}
	doveadm_print_num(state.pos.epoch);
	doveadm_print_num(state.pos.modseq);
	doveadm_print_num(state.floor);
	doveadm_print_num(state.entries);
	doveadm_print_num(state.bytes);
	doveadm_print_num(state.tombstones);
	doveadm_print_num(disk);
	return 0;
}

static void
cmd_status_init(struct doveadm_mail_cmd_context *ctx ATTR_UNUSED,
		const char *const args[] ATTR_UNUSED)
{
	metasync_cmd_print_number_header("epoch");
	metasync_cmd_print_number_header("modseq");
	metasync_cmd_print_number_header("floor");
	metasync_cmd_print_number_header("entries");
	metasync_cmd_print_number_header("bytes");
	metasync_cmd_print_number_header("removals");
	metasync_cmd_print_number_header("disk");
}

static struct doveadm_mail_cmd_context *cmd_status_alloc(void)
{
	struct metasync_cmd *cmd;

	cmd = doveadm_mail_cmd_alloc(struct metasync_cmd);
	cmd->ctx.v.init = cmd_status_init;
	cmd->ctx.v.run = cmd_status_run;
	doveadm_print_init(DOVEADM_PRINT_TYPE_TABLE);
	return &cmd->ctx;
}

struct doveadm_cmd_ver2 doveadm_metasync_cmd_status = {
	.name = "metasync status",
	.mail_cmd = cmd_status_alloc,
	.usage = DOVEADM_CMD_MAIL_USAGE_PREFIX,
DOVEADM_CMD_PARAMS_START
DOVEADM_CMD_MAIL_COMMON
DOVEADM_CMD_PARAMS_END
};

/* -- check ----------------------------------------------------------------- */

static int
cmd_check_run(struct doveadm_mail_cmd_context *ctx, struct mail_user *user)
{
	struct metasync_cmd *cmd = (struct metasync_cmd *)ctx;
	struct store_error error;
	struct store *store;

	if (metasync_cmd_store_if_any(cmd, user, &store) < 0)
		return -1;
	if (store != NULL && store_check(store, &error) != STORE_OK)
		return metasync_cmd_failed(cmd, user, &error);
	doveadm_print(store == NULL ? "none" : "ok");
	return 0;
}

static void
cmd_check_init(struct doveadm_mail_cmd_context *ctx ATTR_UNUSED,
	       const char *const args[] ATTR_UNUSED)
{
	doveadm_print_header("store", "store",
			     DOVEADM_PRINT_HEADER_FLAG_HIDE_TITLE);
}

static struct doveadm_mail_cmd_context *cmd_check_alloc(void)
{
	struct metasync_cmd *cmd;

	cmd = doveadm_mail_cmd_alloc(struct metasync_cmd);
	cmd->ctx.v.init = cmd_check_init;
	cmd->ctx.v.run = cmd_check_run;
	doveadm_print_init(DOVEADM_PRINT_TYPE_FLOW);
	return &cmd->ctx;
}

struct doveadm_cmd_ver2 doveadm_metasync_cmd_check = {
	.name = "metasync check",
	.mail_cmd = cmd_check_alloc,
	.usage = DOVEADM_CMD_MAIL_USAGE_PREFIX,
DOVEADM_CMD_PARAMS_START
DOVEADM_CMD_MAIL_COMMON
DOVEADM_CMD_PARAMS_END
};

/* -- purge ----------------------------------------------------------------- */

struct metasync_purge_cmd {
	struct metasync_cmd cmd;
	bool all, mailboxes;
};

static int
cmd_purge_run(struct doveadm_mail_cmd_context *ctx, struct mail_user *user)
{
	struct metasync_purge_cmd *cmd = (struct metasync_purge_cmd *)ctx;
	struct store_error error;
	struct store *store;
	uint64_t purged = 0, age;
	int64_t now = time(NULL);
	unsigned int removed = 0;

	/* before the store is used, which would only warn of them */
	if (cmd->mailboxes && metasync_user_is_enabled(user) &&
	    metasync_mailboxes_purge(user, &removed, &error) < 0)
		return metasync_cmd_failed(&cmd->cmd, user, &error);
	if (metasync_cmd_store_if_any(&cmd->cmd, user, &store) < 0)
		return -1;
	if (store != NULL) {
		/* as it is when the youngest of them is old enough; the daily
		   purge knows about clocks that were ahead */
		age = store_get_settings(store)->tombstone_secs;
		if (cmd->all)
			now += (int64_t)age + 1;
		if (store_purge(store, now, &purged, &error) != STORE_OK)
			return metasync_cmd_failed(&cmd->cmd, user, &error);
		store_idle(store);
	}
	doveadm_print_num(purged);
	if (cmd->mailboxes)
		doveadm_print_num(removed);
	return 0;
}

static void
cmd_purge_init(struct doveadm_mail_cmd_context *ctx,
	       const char *const args[] ATTR_UNUSED)
{
	struct metasync_purge_cmd *cmd = (struct metasync_purge_cmd *)ctx;

	metasync_cmd_print_number_header("purged");
	if (cmd->mailboxes)
		metasync_cmd_print_number_header("mailboxes");
}

static bool cmd_purge_parse_arg(struct doveadm_mail_cmd_context *ctx, int c)
{
	struct metasync_purge_cmd *cmd = (struct metasync_purge_cmd *)ctx;

	switch (c) {
	case 'a':
		cmd->all = TRUE;
		return TRUE;
	case 'm':
		cmd->mailboxes = TRUE;
		return TRUE;
	default:
		return FALSE;
	}
}

static struct doveadm_mail_cmd_context *cmd_purge_alloc(void)
{
	struct metasync_purge_cmd *cmd;

	cmd = doveadm_mail_cmd_alloc(struct metasync_purge_cmd);
	cmd->cmd.ctx.getopt_args = "am";
	cmd->cmd.ctx.v.parse_arg = cmd_purge_parse_arg;
	cmd->cmd.ctx.v.init = cmd_purge_init;
	cmd->cmd.ctx.v.run = cmd_purge_run;
	doveadm_print_init(DOVEADM_PRINT_TYPE_FLOW);
	return &cmd->cmd.ctx;
}

struct doveadm_cmd_ver2 doveadm_metasync_cmd_purge = {
	.name = "metasync purge",
	.mail_cmd = cmd_purge_alloc,
	.usage = DOVEADM_CMD_MAIL_USAGE_PREFIX"[-a] [-m]",
DOVEADM_CMD_PARAMS_START
DOVEADM_CMD_MAIL_COMMON
DOVEADM_CMD_PARAM('a', "all", CMD_PARAM_BOOL, 0)
DOVEADM_CMD_PARAM('m', "mailboxes", CMD_PARAM_BOOL, 0)
DOVEADM_CMD_PARAMS_END
};

/* -- new-epoch ------------------------------------------------------------- */

struct metasync_new_epoch_cmd {
	struct metasync_cmd cmd;

	bool take_over;
};

static int
cmd_new_epoch_run(struct doveadm_mail_cmd_context *ctx, struct mail_user *user)
{
	struct metasync_new_epoch_cmd *cmd =
		(struct metasync_new_epoch_cmd *)ctx;
	struct store_error error;
	struct store_pos pos;
	struct store *store;

	if (cmd->take_over && metasync_user_is_enabled(user))
		metasync_user_take_over(user);
	if (metasync_cmd_store_if_any(&cmd->cmd, user, &store) < 0)
		return -1;
	if (store == NULL) {
		/* one that is made later has an epoch that nobody knows */
		return 0;
	}
	if (store_new_epoch(store, &pos, &error) != STORE_OK)
		return metasync_cmd_failed(&cmd->cmd, user, &error);
	doveadm_print_num(pos.epoch);
	doveadm_print_num(pos.modseq);
	return 0;
}

static void
cmd_new_epoch_init(struct doveadm_mail_cmd_context *ctx ATTR_UNUSED,
		   const char *const args[] ATTR_UNUSED)
{
	metasync_cmd_print_number_header("epoch");
	metasync_cmd_print_number_header("modseq");
}

static bool
cmd_new_epoch_parse_arg(struct doveadm_mail_cmd_context *ctx, int c)
{
	struct metasync_new_epoch_cmd *cmd =
		(struct metasync_new_epoch_cmd *)ctx;

	if (c != 't')
		return FALSE;
	cmd->take_over = TRUE;
	return TRUE;
}

static struct doveadm_mail_cmd_context *cmd_new_epoch_alloc(void)
{
	struct metasync_new_epoch_cmd *cmd;

	cmd = doveadm_mail_cmd_alloc(struct metasync_new_epoch_cmd);
	cmd->cmd.ctx.getopt_args = "t";
	cmd->cmd.ctx.v.parse_arg = cmd_new_epoch_parse_arg;
	cmd->cmd.ctx.v.init = cmd_new_epoch_init;
	cmd->cmd.ctx.v.run = cmd_new_epoch_run;
	doveadm_print_init(DOVEADM_PRINT_TYPE_FLOW);
	return &cmd->cmd.ctx;
}

struct doveadm_cmd_ver2 doveadm_metasync_cmd_new_epoch = {
	.name = "metasync new-epoch",
	.mail_cmd = cmd_new_epoch_alloc,
	.usage = DOVEADM_CMD_MAIL_USAGE_PREFIX"[-t]",
DOVEADM_CMD_PARAMS_START
DOVEADM_CMD_MAIL_COMMON
DOVEADM_CMD_PARAM('t', "take-over", CMD_PARAM_BOOL, 0)
DOVEADM_CMD_PARAMS_END
};
