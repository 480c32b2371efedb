# Writes the source with the name of this build (kBuild of server/version.h). A script that
# every build runs, since a commit configures nothing; it leaves a file alone that would be
# the same, so that nothing is compiled.
#
#   cmake -DVERSION=... -DREVISION=... -DSOURCE=... -DTEMPLATE=... -DOUTPUT=... -P this

# Of this project itself: what was unpacked inside another one's checkout is not at that
# one's commit.
if(REVISION STREQUAL "" AND EXISTS "${SOURCE}/.git")
  find_program(GIT git)
  if(GIT)
    # --dirty would otherwise write what it found into the index, which somebody else may
    # be about to do.
    set(ENV{GIT_OPTIONAL_LOCKS} 0)
    execute_process(COMMAND "${GIT}" describe --always --dirty
      WORKING_DIRECTORY "${SOURCE}" OUTPUT_VARIABLE REVISION
      OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
endif()
if(NOT REVISION MATCHES "^[A-Za-z0-9._/+-]*$")
  message(FATAL_ERROR "GOLDFINCH_REVISION is ${REVISION}; it may have letters, digits and ._/+- only")
endif()
set(BUILD "${VERSION}")
if(REVISION)
  string(APPEND BUILD "+${REVISION}")
endif()
configure_file("${TEMPLATE}" "${OUTPUT}" @ONLY)
