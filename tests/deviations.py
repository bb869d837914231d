"""Where an engine is known to behave differently, with the reason. A test named here has to fail (strict xfail),
so an entry that is no longer true fails the run.

The key is the test's name without its parameters, the engine first.
"""

from __future__ import annotations

_LOWEST = "the kernel lists a directory of only one layer as it is on disk, whiteouts and all"
_UNLINKED = "the kernel's overlayfs cannot copy up a lower file that was unlinked while open (EEXIST)"
_COUNT = "removing one of several names of a lower file copies nothing, so its link count lasts until the next mount"
_SET_ID = "the kernel writes through a backing file registered without CAP_FSETID, lest a user's write keep the bits"
_RACE = "libfuse knows a file by its path alone: an open that is overtaken by two replacements in a row gets ESTALE"

DEVIATIONS: dict[tuple[str, str], str] = {
    ("overlay", "test_a_whiteout_in_the_lowest_layer_is_not_seen"): _LOWEST,
    ("overlay", "test_numbers_of_a_merged_directory_that_was_not_copied_up"): "d_ino is upper's, st_ino the lower's",
    ("overlay", "test_removing_an_acl_that_is_not_there"): "ENODATA as long as the file is in a lower",
    ("overlay", "test_a_directory_of_whiteouts_in_xattr_form_is_empty"): "rmdir says ENOTEMPTY where readdir is empty",
    ("overlay", "test_rename_whiteout"): "the kernel's overlayfs refuses RENAME_WHITEOUT from applications (EINVAL)",
    ("overlay", "test_unlinked_lower_file_stays_readable"): "fstat of an unlinked lower file still says nlink 1",
    ("overlay", "test_unlinked_lower_file_is_changed_through_its_descriptor"): _UNLINKED,
    ("overlay", "test_unlinked_lower_file_reopened_for_writing"): _UNLINKED,
    ("overlay", "test_replaced_by_rename_while_open"): _UNLINKED,
    ("unionfs", "test_root_keeps_setuid_when_writing_what_another_holds"): _SET_ID,
    ("unionfs", "test_count_after_unlink_of_a_lower_link_lasts"): _COUNT,
    ("unionfs", "test_count_after_rename_over_a_lower_link_lasts"): _COUNT,
    ("fusepy", "test_count_after_unlink_of_a_lower_link_lasts"): _COUNT,
    ("fusepy", "test_count_after_rename_over_a_lower_link_lasts"): _COUNT,
    ("fusepy", "test_unlinked_fifo_still_answers"): "libfuse is not told of an open FIFO, only of its path",
    ("overlay", "test_unlinked_fifo_still_answers"): _UNLINKED,
    ("fusepy", "test_birth_time"): "libfuse's high-level API has no statx",
    ("fusepy", "test_in_a_removed_directory"): "libfuse 3 knows a directory by its path alone and says ESTALE",
    ("fusepy", "test_rename_and_open_of_one_name"): _RACE,
}
